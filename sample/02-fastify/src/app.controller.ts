import { BadRequestException, Body, Controller, Get, HttpCode, Post } from '@nestjs/common';
import { ActiveSession, PublicSession, Session, SessionRegistry, SessionService } from 'nestjs-sessionkit';

/** What `session.data` holds in this app. */
interface Data {
  signedInAt?: Date;
  views?: number;
}

@Controller()
export class AppController {
  constructor(
    private readonly sessions: SessionService<Data>,
    private readonly registry: SessionRegistry,
  ) {}

  /** Signs in as anyone: a real app checks a password here. The guard stays out; `@Session()` works all the same. */
  @Post('sign-in')
  @PublicSession()
  @HttpCode(200)
  async signIn(@Session() session: ActiveSession<Data>, @Body() body: unknown): Promise<object> {
    await this.sessions.login(session, nameOf(body)); // a new token: the cookie is set for it
    session.data.signedInAt = new Date(); // saved before the response leaves
    return { user: session.userId };
  }

  @Get('me')
  async me(@Session() session: ActiveSession<Data>): Promise<object> {
    // Not `session.data.views++`: of two requests at once, one view would be lost.
    await session.update((latest) => {
      latest.views = (latest.views ?? 0) + 1;
    });
    const { signedInAt, views } = session.data;
    return { user: session.userId, signedInAt, views };
  }

  @Get('devices')
  async devices(@Session() session: ActiveSession<Data>): Promise<object[]> {
    const list = await this.registry.getUserSessions(session.userId!);
    return list.map(({ id, metadata, idle }) => ({ id, ...metadata, idle, current: id === session.id }));
  }

  @Post('sign-out')
  @HttpCode(204)
  async signOut(@Session() session: ActiveSession<Data>): Promise<void> {
    await session.destroy(); // and the cookie is cleared
  }

  @Post('sign-out-others')
  @HttpCode(200)
  async signOutOthers(@Session() session: ActiveSession<Data>): Promise<object> {
    return { ended: await this.registry.killUser(session.userId!, { except: session.id }) };
  }
}

function nameOf(body: unknown): string {
  const name = typeof body === 'object' && body !== null && 'name' in body ? body.name : undefined;
  if (typeof name === 'string' && /^\P{C}{1,50}$/u.test(name)) return name;
  throw new BadRequestException('name must have 1 to 50 characters, and no control characters');
}

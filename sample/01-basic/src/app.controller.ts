import {
  BadRequestException,
  Body,
  Controller,
  Get,
  Header,
  HttpCode,
  Param,
  Post,
  UnauthorizedException,
  UseGuards,
} from '@nestjs/common';
import {
  ActiveSession,
  OptionalSession,
  Session,
  SessionGuard,
  SessionRegistry,
  SessionService,
  type SessionInfo,
} from 'nestjs-sessionkit';
import { parseName } from './name.js';
import { sessionsPage, signInPage } from './page.js';
import { THEMES } from './session-data.js';
import { deviceOf, timeAgo } from './words.js';

/**
 * Every POST changes something and answers 303 with a JSON body: browsers go back to the page, so that a reload posts
 * nothing twice; curl shows the body. Posts that another site's page sends are refused by the package (option `csrf`).
 *
 * Nothing here sets, renews or clears a cookie: that follows from what the handlers do with the session.
 */
@Controller()
@UseGuards(SessionGuard)
export class AppController {
  constructor(
    private readonly sessions: SessionService,
    private readonly registry: SessionRegistry,
  ) {}

  /** A visitor without a session has a new one here, of which nothing is stored and no cookie set: we write nothing. */
  @Get()
  @OptionalSession()
  @Header('Content-Type', 'text/html; charset=utf-8')
  async page(@Session() session: ActiveSession): Promise<string> {
    const { userId } = session;
    if (userId === null) return signInPage(session.get('theme'));
    return sessionsPage({
      userId,
      views: await countView(session),
      theme: session.get('theme'),
      current: session.id,
      list: await this.registry.getUserSessions(userId),
    });
  }

  @Get('me')
  async me(@Session() session: ActiveSession): Promise<object> {
    return { user: userOf(session), views: await countView(session) };
  }

  @Get('sessions')
  async list(@Session() session: ActiveSession): Promise<object[]> {
    const list = await this.registry.getUserSessions(userOf(session));
    return list.map((info) => describe(info, session.id));
  }

  /**
   * For everybody: this is where the session of a visitor who is not signed in is first stored, and the cookie set.
   * A plain assignment, saved before the response leaves; signing in keeps it.
   */
  @Post('theme')
  @OptionalSession()
  @HttpCode(303)
  @Header('Location', '/')
  chooseTheme(@Session() session: ActiveSession, @Body('theme') value: unknown): object {
    const theme = THEMES.find((one) => one === value);
    if (theme === undefined) throw new BadRequestException(`theme must be ${THEMES.join(' or ')}`);
    session.data.theme = theme;
    return { theme };
  }

  /**
   * Signs in as anyone: a real app checks a password, a passkey or an identity provider's answer here.
   *
   * `login` always gives the browser a new token, so that nobody signs in to a session whose token someone else planted
   * (session fixation). The one it had is void from then on, and so is its data if it was another user's.
   */
  @Post('sign-in')
  @OptionalSession()
  @HttpCode(303)
  @Header('Location', '/')
  async signIn(@Session() session: ActiveSession, @Body('name') name: unknown): Promise<object> {
    await this.sessions.login(session, parseName(name));
    return { user: session.userId, session: session.id };
  }

  /** The cookie is cleared with it, and by no other route: it is this request that ended the session. */
  @Post('sign-out')
  @HttpCode(303)
  @Header('Location', '/')
  async signOut(@Session() session: ActiveSession): Promise<object> {
    await session.destroy();
    return { ended: 1 };
  }

  @Post('sessions/end-others')
  @HttpCode(303)
  @Header('Location', '/')
  async endOthers(@Session() session: ActiveSession): Promise<object> {
    return { ended: await this.registry.killUser(userOf(session), { except: session.id }) };
  }

  /** Ids are public, so an id proves nothing: with `userId`, only the user's own sessions are ended here. */
  @Post('sessions/:id/end')
  @HttpCode(303)
  @Header('Location', '/')
  async end(@Session() session: ActiveSession, @Param('id') id: string): Promise<object> {
    const ended = await this.registry.kill(id, { userId: userOf(session) });
    return { ended: ended ? 1 : 0 };
  }
}

/**
 * By a function, which is run again if another request saved meanwhile: of two at once, both count. With
 * `session.data.views++`, each would save the number it computed, and one view would be lost.
 */
async function countView(session: ActiveSession): Promise<number> {
  await session.update((latest) => {
    latest.views = (latest.views ?? 0) + 1;
  });
  return session.get('views') ?? 0;
}

/** A session is not a user: visitors who chose a theme have one too. */
function userOf({ userId }: ActiveSession): string {
  if (userId === null) throw new UnauthorizedException();
  return userId;
}

function describe(info: SessionInfo, current: string): object {
  const { id, metadata, idle } = info;
  return {
    id,
    device: deviceOf(metadata.userAgent),
    ip: metadata.ip,
    lastSeen: timeAgo(idle),
    current: id === current,
  };
}

import {
  BadRequestException,
  Body,
  Controller,
  Get,
  Header,
  HttpCode,
  Param,
  Post,
  Query,
  UseGuards,
} from '@nestjs/common';
import {
  ActiveSession,
  CsrfGuard,
  RecentLogin,
  RequireUser,
  Session,
  SessionArgumentError,
  SessionGuard,
  SessionRegistry,
  type UserPage,
} from 'nestjs-sessionkit';
import { AdminGuard } from './admin.guard.js';
import { adminPage, type UserView } from './admin-page.js';
import { parseName } from './name.js';

const USERS_PER_PAGE = 20;
/** Shorter, to see what happens when a sign-in has grown old: RECENT_LOGIN=10s npm start */
const RECENT_LOGIN = process.env.RECENT_LOGIN || '5m';

/**
 * Everybody's sessions. The guards go from left to right: is there a session of a user, is it an administrator's, and
 * does a POST carry the token that only our own forms have.
 */
@Controller('admin')
@RequireUser()
@UseGuards(SessionGuard, AdminGuard, CsrfGuard)
export class AdminController {
  constructor(private readonly registry: SessionRegistry) {}

  @Get()
  @Header('Content-Type', 'text/html; charset=utf-8')
  async page(@Session() session: ActiveSession, @Query('after') after: unknown): Promise<string> {
    const [live, active, { users, cursor }] = await Promise.all([
      this.registry.count(),
      this.registry.count({ activeWithin: '15m' }),
      this.#usersAfter(after),
    ]);
    return adminPage({
      csrfToken: session.csrfToken(),
      theme: session.get('theme'),
      current: session.id,
      live,
      active,
      users: await Promise.all(users.map((user) => this.#view(user))),
      next: cursor,
    });
  }

  @Post('sessions/:id/end')
  @HttpCode(303)
  @Header('Location', '/admin')
  async endOne(@Param('id') id: string): Promise<object> {
    return { ended: (await this.registry.kill(id)) ? 1 : 0 };
  }

  /** The name comes in the body: names are not made for paths. */
  @Post('users/end')
  @HttpCode(303)
  @Header('Location', '/admin')
  async endUser(@Body('user') user: unknown): Promise<object> {
    return { ended: await this.registry.killUser(parseName(user)) };
  }

  /** Not by whoever finds the browser open: an older sign-in gets 401, and the form for what follows. */
  @Post('end-all')
  @RecentLogin(RECENT_LOGIN)
  @HttpCode(303)
  @Header('Location', '/admin')
  async endAll(): Promise<object> {
    return { ended: await this.registry.killAll() }; // the administrator's own too
  }

  /**
   * A real app checks the password or the passkey here. The session goes on with a new token, and so with a new CSRF
   * token: forms of pages that were open before are refused.
   */
  @Post('confirm')
  @HttpCode(303)
  @Header('Location', '/admin')
  async confirm(@Session() session: ActiveSession): Promise<object> {
    await session.reauthenticated();
    return { user: session.userId, session: session.id };
  }

  async #view(userId: string): Promise<UserView> {
    const sessions = await this.registry.getUserSessions(userId);
    return { userId, sessions };
  }

  /** The cursor comes back from the client, as whatever it sent. */
  async #usersAfter(after: unknown): Promise<UserPage> {
    if (after !== undefined && typeof after !== 'string') throw new BadRequestException('after is no cursor');
    try {
      return await this.registry.getAllUsers({ limit: USERS_PER_PAGE, cursor: after ?? null });
    } catch (error) {
      if (error instanceof SessionArgumentError) throw new BadRequestException('after is no cursor');
      throw error;
    }
  }
}

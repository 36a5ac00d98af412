import {
  BadRequestException,
  Body,
  Controller,
  ForbiddenException,
  Get,
  Header,
  HttpCode,
  Param,
  Post,
  Req,
  Res,
  UseGuards,
} from '@nestjs/common';
import type { CookieOptions, Request, Response } from 'express';
import {
  ActiveSession,
  OptionalSession,
  Session,
  SessionGuard,
  SessionRegistry,
  SessionService,
  type SessionInfo,
} from 'nestjs-sessionkit';
import { sessionsPage, signInPage } from './page.js';
import { SameOriginGuard } from './same-origin.guard.js';
import { deviceOf, timeAgo } from './words.js';

/** In production, over HTTPS: `__Host-sid`, the package's default. Browsers take that prefix only from a secure site. */
export const COOKIE_NAME = 'sid';

/**
 * HttpOnly: scripts cannot read the token. SameSite=Lax: other sites' forms do not send it. No Max-Age: it lasts as
 * long as the browser, at most; the session itself ends in the store.
 *
 * `secure` is off because this sample speaks plain http on the loopback address. Production wants `secure: true`.
 */
const COOKIE: CookieOptions = { httpOnly: true, sameSite: 'lax', path: '/', secure: false };

/**
 * Every POST changes something and answers 303 with a JSON body: browsers go back to the page, so that a reload posts
 * nothing twice; curl shows the body.
 */
@Controller()
@UseGuards(SameOriginGuard, SessionGuard)
export class AppController {
  constructor(
    private readonly sessions: SessionService,
    private readonly registry: SessionRegistry,
  ) {}

  @Get()
  @OptionalSession()
  @Header('Content-Type', 'text/html; charset=utf-8')
  async page(@Session() session: ActiveSession | null): Promise<string> {
    if (session === null) return signInPage();
    const views = await this.#countView(session);
    const userId = userOf(session);
    return sessionsPage({
      userId,
      views,
      current: session.id,
      list: await this.registry.getUserSessions(userId),
    });
  }

  @Get('me')
  async me(@Session() session: ActiveSession): Promise<object> {
    return { user: session.userId, views: await this.#countView(session) };
  }

  @Get('sessions')
  async list(@Session() session: ActiveSession): Promise<object[]> {
    const list = await this.registry.getUserSessions(userOf(session));
    return list.map((info) => describe(info, session.id));
  }

  /** Signs in as anyone: a real app checks a password, a passkey or an identity provider's answer here. */
  @Post('sign-in')
  @OptionalSession()
  @HttpCode(303)
  @Header('Location', '/')
  async signIn(
    @Session() session: ActiveSession | null,
    @Body('name') name: unknown,
    @Req() request: Request,
    @Res({ passthrough: true }) response: Response,
  ): Promise<object> {
    const userId = parseName(name);
    // Always a new token, so that nobody signs in to a session whose token someone else planted (session fixation).
    // A session that the browser has already is not left behind: its token dies here, and so does its data unless it
    // was the same user's.
    const metadata = { ip: request.ip, userAgent: request.get('user-agent') };
    const signedIn =
      session === null
        ? await this.sessions.create({}, { userId, metadata })
        : await session.regenerate({ userId });
    response.cookie(COOKIE_NAME, signedIn.token, COOKIE);
    return { user: signedIn.userId, session: signedIn.id };
  }

  /** Clears the cookie, as the only route: it is this request that ended the session. */
  @Post('sign-out')
  @HttpCode(303)
  @Header('Location', '/')
  async signOut(
    @Session() session: ActiveSession,
    @Res({ passthrough: true }) response: Response,
  ): Promise<object> {
    await session.destroy();
    response.clearCookie(COOKIE_NAME, COOKIE);
    return { ended: 1 };
  }

  @Post('sessions/end-others')
  @HttpCode(303)
  @Header('Location', '/')
  async endOthers(@Session() session: ActiveSession): Promise<object> {
    return { ended: await this.registry.killUser(userOf(session), { except: session.id }) };
  }

  /** Ids are public, so an id proves nothing: only sessions in the user's own list may be ended here. */
  @Post('sessions/:id/end')
  @HttpCode(303)
  @Header('Location', '/')
  async end(@Session() session: ActiveSession, @Param('id') id: string): Promise<object> {
    const own = await this.registry.getUserSessions(userOf(session));
    const ended = own.some((info) => info.id === id) && (await this.registry.kill(id));
    return { ended: ended ? 1 : 0 };
  }

  /** By a function, which is run again if another request saved meanwhile: of two at once, both count. */
  async #countView({ token }: ActiveSession): Promise<number> {
    const { data } = await this.sessions.update(token, (latest) => {
      latest.views = (latest.views ?? 0) + 1;
    });
    return data.views ?? 0;
  }
}

/** Every session of this app has a user from its creation on; apps with anonymous sessions decide here. */
function userOf({ userId }: ActiveSession): string {
  if (userId === null) throw new ForbiddenException();
  return userId;
}

/** Bodies are whatever the client sent: a missing field, a list, an object. */
function parseName(value: unknown): string {
  const name = typeof value === 'string' ? value.trim() : '';
  if (!/^\P{C}{1,50}$/u.test(name)) {
    throw new BadRequestException('name must have 1 to 50 characters, and no control characters');
  }
  return name;
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

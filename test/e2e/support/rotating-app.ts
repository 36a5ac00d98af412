// Apps with `rotateEvery`, and sessions whose token has served long enough.
import { Controller, Get, Inject, Param, Post, Req, UseGuards } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { expect, onTestFinished } from 'vitest';
import {
  CsrfGuard,
  Session,
  SESSION_STORE,
  SessionExceptionFilter,
  SessionGuard,
  SessionService,
  StrictSession,
  type ActiveSession,
  type SessionModuleOptions,
  type SessionRecord,
  type SessionStore,
} from '../../../lib/index.js';
import { recordKey } from '../../integration/session-node.js';
import { waitFor } from '../../support/wait-for.js';
import { cookieOf, type Answer } from './http-client.js';
import { PLATFORMS, startApp, type Data, type Platform, type TestApp } from './test-app.js';
import { onRedis, openClient, untilLive } from './test-redis.js';
import { WayController } from './ways.js';

export const STORES = ['memory', 'Redis'] as const;
export type Store = (typeof STORES)[number];
export const EVERYWHERE = PLATFORMS.flatMap((platform) => STORES.map((store) => [platform, store] as const));

export const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
export const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };
export const CONFLICT = { statusCode: 409, message: 'Try again', error: 'Conflict' };
export const UNAUTHORIZED = { statusCode: 401, message: 'Unauthorized' };

type Fields = Data & Record<string, unknown>;
type Visitor = ActiveSession<Fields>;

/** Where handlers wait, once they have the session, until the test lets them go on. */
export const gate = {
  waiting: 0,
  opened: Promise.resolve(),
  open: () => undefined as void,
  close() {
    gate.waiting = 0;
    gate.opened = new Promise((resolve) => (gate.open = resolve));
    onTestFinished(() => gate.open());
  },
  reachedBy: (count: number) => waitFor(() => gate.waiting === count, { message: `${count} at the gate` }),
};

@Controller()
class AppController {
  constructor(@Inject(SessionService) private readonly sessions: SessionService<Data>) {}

  @Get('look')
  look(@Session() { data, userId, createdAt, expiresAt }: Visitor) {
    return { data, userId, createdAt, expiresAt };
  }

  @Get('unused')
  unused(@Session() _session: Visitor) {
    return { ok: true };
  }

  @Get('guarded')
  @UseGuards(SessionGuard)
  guarded() {
    return { ok: true };
  }

  @Get('strict')
  @StrictSession()
  @UseGuards(SessionGuard)
  strict() {
    return { ok: true };
  }

  @Get('plain')
  plain() {
    return { ok: true };
  }

  @Get('set/:key')
  set(@Session() session: Visitor, @Param('key') key: string) {
    session.data[key] = true;
    return { ok: true };
  }

  @Get('set-now/:key')
  async setNow(@Session() session: Visitor, @Param('key') key: string) {
    await session.set(key, true);
    return { ok: true };
  }

  @Get('wait')
  @UseGuards(SessionGuard)
  async wait() {
    await this.#pass();
    return { ok: true };
  }

  @Get('wait-and-set/:key')
  @UseGuards(SessionGuard)
  async waitAndSet(@Session() session: Visitor, @Param('key') key: string) {
    await this.#pass();
    session.data[key] = true;
    return { ok: true };
  }

  @Get('wait-and-set-now/:key')
  @UseGuards(SessionGuard)
  async waitAndSetNow(@Session() session: Visitor, @Param('key') key: string) {
    await this.#pass();
    await session.set(key, true);
    return { ok: true };
  }

  @Post('logout')
  @UseGuards(SessionGuard)
  async logout(@Session() session: Visitor) {
    session.data.lost = true;
    await session.destroy();
    return { ok: true };
  }

  /** Not guarded: who has signed out already is answered all the same. */
  @Post('wait-and-leave')
  async leave(@Session() session: Visitor) {
    const { userId } = session;
    await this.#pass();
    await session.destroy();
    return { left: userId };
  }

  @Post('login/:user')
  async login(@Session() session: Visitor, @Param('user') user: string) {
    session.data.views = 1;
    await this.sessions.login(session as unknown as ActiveSession<Data>, user);
    return { ok: true };
  }

  @Post('regenerate')
  async regenerate(@Session() session: Visitor) {
    await session.regenerate();
    return { ok: true };
  }

  @Get('form')
  form(@Session() session: Visitor) {
    return { token: session.csrfToken() };
  }

  @Post('pay')
  @UseGuards(CsrfGuard)
  pay() {
    return { ok: true };
  }

  @Get('view-login/:user')
  viewLogin(@Req() request: { session: Record<string, unknown> }, @Param('user') user: string) {
    request.session['owner'] = user;
    return { ok: true };
  }

  async #pass(): Promise<void> {
    gate.waiting++;
    await gate.opened;
  }
}

export interface RotatingApp extends TestApp {
  /** A session whose token has served for over an hour, read from the store by the next request. */
  aged(options?: {
    userId?: string | null;
    idle?: number;
  }): Promise<{ token: string; id: string; record: SessionRecord }>;
  readonly store: SessionStore;
  stored(token: string | undefined): Promise<ActiveSession<Data> | null>;
}

/** The age is written into the stored record by hand: `rotateEvery` is a minute at least. */
export async function startRotating(
  platform: Platform,
  store: Store,
  session: SessionModuleOptions = {},
): Promise<RotatingApp> {
  const options = { ...(store === 'Redis' && session.redis === undefined ? onRedis() : {}), ...session };
  const app = await startApp(platform, {
    controllers: [AppController, WayController],
    providers: [{ provide: APP_FILTER, useClass: SessionExceptionFilter }],
    session: { rotateEvery: '30m', ...options },
  });
  if (store === 'Redis') await untilLive(app);
  const redis = store === 'Redis' ? openClient() : null;
  const sessions = app.app.get<SessionStore>(SESSION_STORE, { strict: false });
  return {
    ...app,
    store: sessions,
    stored: (token) => app.sessions.get(token, { fresh: true }),
    async aged({ userId = 'ann', idle = 0 } = {}) {
      const { token, id, createdAt, lastAccess } = await app.sessions.create(
        { name: 'Ada' },
        userId === null ? {} : { userId },
      );
      const times = { createdAt: createdAt - HOUR, lastAccess: lastAccess - idle };
      if (redis === null) {
        Object.assign((await sessions.get(id))!.record, times);
      } else {
        const key = recordKey(options.keyPrefix!, id);
        await redis.setrange(key, 67, String(times.createdAt)); // see lib/store/redis-record.ts
        await redis.setrange(key, 27, String(times.lastAccess));
      }
      app.cache.clear();
      const { record } = (await sessions.get(id))!;
      expect(record).toMatchObject(times);
      return { token, id, record };
    },
  };
}

export const withSid = (token: string) => ({ headers: { cookie: `sid=${token}` } });
export const tokensOf = (answers: readonly Answer[]) => answers.flatMap((answer) => cookieOf(answer) ?? []);
export const countOf = (answers: readonly Answer[], status: number) =>
  answers.filter((answer) => answer.status === status).length;

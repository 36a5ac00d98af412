import 'reflect-metadata';
import { request, type Server } from 'node:http';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  Controller,
  Get,
  Inject,
  NotFoundException,
  Param,
  Post,
  Res,
  Sse,
  StreamableFile,
  UseGuards,
} from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { finalize, interval, map } from 'rxjs';
import { Redis } from 'ioredis';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  ActiveSession,
  OptionalSession,
  Session,
  SessionExceptionFilter,
  SessionGuard,
  SessionService,
  StrictSession,
  type HttpResponse,
  type SessionModuleOptions,
  type TokenTransport,
} from '../../lib/index.js';
import { RedisServer } from '../support/redis-server.js';
import { testRedisUrl } from '../support/redis-url.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { ask, attributesOf, CookieJar, cookieOf, type Answer } from './support/http-client.js';
import {
  Logs,
  PLATFORMS,
  startApp,
  type AppSpec,
  type Data,
  type Platform,
  type TestApp,
} from './support/test-app.js';
import { onRedis, untilLive } from './support/test-redis.js';
import { hooks, rawOf, WayController, waysOf } from './support/ways.js';
import { WrappedStore } from './support/wrapped-store.js';

const STORES = ['memory', 'Redis'] as const;
type Store = (typeof STORES)[number];
const EVERYWHERE = PLATFORMS.flatMap((platform) => STORES.map((store) => [platform, store] as const));

const UNAUTHORIZED = { statusCode: 401, message: 'Unauthorized' };
const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };
const INTERNAL = { statusCode: 500, message: 'Internal server error' };

/** A token of the right form that nobody has. */
const NOBODYS = 'A'.repeat(44);

type Visitor = ActiveSession<Data & Record<string, unknown>>;

const CHUNK = Buffer.alloc(64 * 1024, 'x');
const BIG_CHUNKS = 1024; // 64 MiB

/** Streams that handlers answer with, and how much of them was taken. */
const endless = {
  produced: 0,
  live: 0,
  open(chunks = Infinity): Readable {
    endless.produced = 0;
    endless.live++;
    const stream = new Readable({
      read() {
        stream.push(endless.produced++ < chunks ? CHUNK : null);
      },
    });
    stream.once('close', () => endless.live--);
    return stream;
  },
};

/** What handlers leave behind to run after their answer; the test says when. */
const afterwards = {
  go: () => undefined as void,
  waiting: Promise.resolve(),
  done: Promise.resolve(),
  arm() {
    afterwards.waiting = new Promise((resolve) => (afterwards.go = resolve));
  },
  async run(work: () => unknown) {
    afterwards.done = afterwards.waiting.then(work).then(() => undefined);
    await afterwards.done;
  },
};

@Controller()
class AppController {
  constructor(@Inject(SessionService) private readonly sessions: SessionService<Data>) {}

  @Get('plain')
  plain() {
    return { ok: true };
  }

  @Get('unused')
  unused(@Session() _session: Visitor) {
    return { ok: true };
  }

  @Get('look')
  look(@Session() session: Visitor) {
    return { data: session.data, stored: session.isStored };
  }

  @Get('strict')
  @StrictSession()
  strict(@Session() session: Visitor) {
    return { data: session.data };
  }

  @Get('guarded')
  @UseGuards(SessionGuard)
  guarded(@Session() session: Visitor) {
    return { name: session.data.name };
  }

  @Get('optional')
  @UseGuards(SessionGuard)
  @OptionalSession()
  optional(@Session() session: Visitor, @Session('name') name: unknown) {
    return { stored: session.isStored, name: name ?? 'absent' };
  }

  @Get('views')
  views(@Session() session: Visitor) {
    session.data.views = (session.data.views ?? 0) + 1;
    return { views: session.data.views };
  }

  @Get('set/:key/:value')
  set(@Session() session: Visitor, @Param('key') key: string, @Param('value') value: string) {
    session.data[key] = value;
    return { [key]: value };
  }

  /** Nothing changes in the end. */
  @Get('undo')
  undo(@Session() session: Visitor) {
    session.data.views = 1;
    delete session.data.views;
    return { ok: true };
  }

  @Get('csrf-token')
  csrfToken(@Session() session: Visitor) {
    return { token: session.csrfToken() };
  }

  /** A write of its own before the answer. */
  @Get('write-now')
  async writeNow(@Session() session: Visitor) {
    await session.set('views', 1);
    return { ok: true };
  }

  @Post('login/:user')
  async login(@Session() session: Visitor, @Param('user') user: string) {
    const before = session.token;
    await this.sessions.login(session as unknown as ActiveSession<Data>, user);
    return { id: session.id, changed: session.token !== before, data: session.data };
  }

  @Post('login-and-fail/:user')
  async loginAndFail(@Session() session: Visitor, @Param('user') user: string) {
    session.data.name = 'kept';
    await this.sessions.login(session as unknown as ActiveSession<Data>, user);
    session.data.views = 7;
    throw new NotFoundException();
  }

  @Post('regenerate')
  async regenerate(@Session() session: Visitor) {
    await session.regenerate();
    return { id: session.id };
  }

  @Post('logout')
  async logout(@Session() session: Visitor) {
    session.data.views = -1; // lost with the session, as it should be
    await session.destroy();
    return { ok: true };
  }

  @Post('destroy-of-nobody')
  async destroyOfNobody(@Session() session: Visitor) {
    session.data.views = 1;
    await session.destroy();
    return { ok: true };
  }

  @Get('header-first')
  headerFirst(@Session() session: Visitor, @Res() response: HttpResponse) {
    rawOf(response).flushHeaders();
    session.data.views = 5;
    rawOf(response).end('too late');
  }

  @Get('look-then-change')
  lookThenChange(@Session() session: Visitor) {
    void session.data;
    setImmediate(() => void afterwards.run(() => void (session.data.views = 5)));
    return { ok: true };
  }

  @Get('change-without-a-look')
  changeWithoutALook(@Session() session: Visitor) {
    setImmediate(() => void afterwards.run(() => void (session.data.views = 5)));
    return { ok: true };
  }

  @Get('change-and-save')
  changeAndSave(@Session() session: Visitor) {
    setImmediate(
      () =>
        void afterwards.run(async () => {
          session.data.views = 5;
          await session.save();
        }),
    );
    return { ok: true };
  }

  @Get('endless-file')
  endlessFile(@Session() session: Visitor) {
    session.data.views = 1;
    return new StreamableFile(endless.open());
  }

  @Get('endless-pipe')
  endlessPipe(@Session() session: Visitor, @Res() response: HttpResponse) {
    session.data.views = 1;
    endless.open().pipe(rawOf(response));
  }

  @Sse('endless-events')
  endlessEvents(@Session() session: Visitor) {
    session.data.views = 1;
    endless.live++;
    return interval(5).pipe(
      map((count) => ({ data: String(count) })),
      finalize(() => endless.live--),
    );
  }

  @Get('big-file')
  bigFile(@Session() session: Visitor) {
    session.data.views = 1;
    return new StreamableFile(endless.open(BIG_CHUNKS));
  }

  @Get('bad-header')
  badHeader(@Session() session: Visitor, @Res() response: HttpResponse) {
    session.data.views = 1;
    rawOf(response).writeHead(200, { 'x-name': 'a name \u4e2d' }).end('x');
  }

  @Get('slow-write')
  async slowWrite(@Session() session: Visitor) {
    session.data.views = 99;
    await hooks.beforeAnswer?.(session as unknown as ActiveSession<Data>);
    return { views: 99 };
  }
}

const optionsFor = (store: Store): SessionModuleOptions => (store === 'Redis' ? onRedis() : {});

async function start(platform: Platform, store: Store, spec: AppSpec = {}): Promise<TestApp> {
  const { session, ...rest } = spec;
  const app = await startApp(platform, {
    controllers: [AppController, WayController],
    ...rest,
    session: { ...optionsFor(store), ...session },
  });
  if (store === 'Redis' && session?.cache !== false) await untilLive(app);
  onTestFinished(() => void (hooks.beforeAnswer = undefined));
  return app;
}

const stored = async ({ sessions }: Pick<TestApp, 'sessions'>, token: string | undefined) =>
  (await sessions.get(token, { fresh: true }))?.data;

const withSid = (token: string) => ({ headers: { cookie: `sid=${token}` } });

/** Errors that Nest or this package logged; `crash` of the handlers is theirs. */
const errorsOf = ({ logs }: TestApp) =>
  logs.matching(/^(error|fatal)/).filter((line) => !line.includes('a bug of the handler'));

/** A point that handlers wait at until the test lets them go on. */
function barrier() {
  let open: () => void = () => undefined;
  let waiting = 0;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return {
    wait: async () => {
      waiting++;
      await opened;
    },
    reachedBy: (count: number) => waitFor(() => waiting === count, { message: `${count} at the barrier` }),
    open,
  };
}

describe.each(EVERYWHERE)('over %s and %s, a handler that answers by', (platform, store) => {
  it.each(waysOf(platform).map((way) => [way.name, way] as const))(
    '%s: the change is stored and the cookie set before the first byte, the rest is as the handler made it',
    async (_name, { path, method, status, text, headers = {}, cookies = [] }) => {
      const app = await start(platform, store);
      let atFirstByte: unknown;
      const answer = await ask(`${app.url}/way/${path}`, {
        ...(method && { method }),
        onHeaders: async (_incoming, lines) => {
          atFirstByte = await stored(app, cookieOf({ cookies: lines }));
        },
      });
      expect(answer.status).toBe(status);
      expect(answer.text).toBe(text);
      expect(answer.headers).toMatchObject(headers);
      expect(atFirstByte).toEqual({ views: 1 });
      expect(answer.headers['cache-control']).toBe('no-store');
      expect(answer.cookies).toHaveLength(cookies.length + 1);
      expect(answer.cookies).toEqual(expect.arrayContaining([...cookies]));
      expect(errorsOf(app)).toEqual([]);
    },
  );
});

describe.each(EVERYWHERE)('every way of answering over %s and %s', (platform, store) => {
  const ways = waysOf(platform);

  /** Sends one request by each way, each with a session of its own; runs `spoil` when all have changed theirs. */
  async function askAll(app: TestApp, spoil: (sessions: ActiveSession<Data>[]) => unknown) {
    const tokens = await Promise.all(
      ways.map(async () => (await app.sessions.create({ name: 'Ada' })).token),
    );
    const { wait, reachedBy, open } = barrier();
    const seen: ActiveSession<Data>[] = [];
    hooks.beforeAnswer = async (session) => {
      seen.push(session);
      await wait();
    };
    const answers = Promise.all(
      ways.map(({ path, method }, index) =>
        ask(`${app.url}/way/${path}`, { ...(method && { method }), ...withSid(tokens[index]!) }),
      ),
    );
    await Promise.race([reachedBy(ways.length), answers]);
    await spoil(seen);
    open();
    return { tokens, answers: await answers };
  }

  function expectReplaced(answers: Answer[], body: { statusCode: number }) {
    for (const [index, answer] of answers.entries()) {
      const { name, method } = ways[index]!;
      expect.soft(answer.status, name).toBe(body.statusCode);
      expect.soft(answer.body, name).toEqual(method === 'HEAD' ? '' : body);
      expect.soft(answer.headers['content-type'], name).toMatch(/^application\/json/);
      expect.soft(answer.headers['cache-control'], name).toBe('no-store');
      for (const header of ['etag', 'location', 'last-modified', 'expires', 'accept-ranges'])
        expect.soft(answer.headers[header], `${name}: ${header}`).toBeUndefined();
      expect.soft(cookieOf(answer), name).toBeUndefined();
    }
  }

  it('saves to the session that the request came with, and then sets no cookie and no Cache-Control', async () => {
    const app = await start(platform, store);
    const { tokens, answers } = await askAll(app, () => undefined);
    for (const [index, answer] of answers.entries()) {
      const { name, status, text, headers = {}, cookies = [] } = ways[index]!;
      expect.soft(answer.status, name).toBe(status);
      expect.soft(answer.text, name).toBe(text);
      expect.soft(answer.headers, name).toMatchObject(headers);
      expect.soft(answer.cookies, name).toEqual(cookies);
      expect.soft(answer.headers['cache-control'], name).not.toBe('no-store');
      expect.soft(await stored(app, tokens[index]), name).toEqual({ name: 'Ada', views: 1 });
    }
    expect(errorsOf(app)).toEqual([]);
  });

  it('becomes 503 without anything of the handler when the store is down, and nobody is signed out', async () => {
    let app: TestApp;
    let down: () => unknown;
    let up: () => unknown;
    if (store === 'memory') {
      const wrapped = new WrappedStore({ exclusive: true });
      app = await start(platform, store, { session: { store: wrapped } });
      down = () => (wrapped.down = true);
      up = () => (wrapped.down = false);
    } else {
      const proxy = await TcpProxy.start({ targetPort: Number(new URL(testRedisUrl()).port) });
      onTestFinished(() => proxy.close());
      app = await start(platform, store, {
        session: { ...onRedis(), redis: proxy.url, commandTimeout: '300ms' },
      });
      down = () => {
        proxy.refuse(true);
        proxy.cutAll();
      };
      up = () => proxy.refuse(false);
    }
    const { tokens, answers } = await askAll(app, down);
    expectReplaced(answers, UNAVAILABLE);
    // A visitor who has no session yet: nothing is set.
    const fresh = await ask(`${app.url}/views`);
    expect([fresh.status, fresh.body, fresh.cookies]).toEqual([503, UNAVAILABLE, []]);
    await up();
    await waitFor(async () => (await ask(`${app.url}/strict`, withSid(tokens[0]!))).status === 200);
    for (const token of tokens) expect(await stored(app, token)).toEqual({ name: 'Ada' });
    const after = await ask(`${app.url}/views`, withSid(tokens[0]!));
    expect(after.body).toEqual({ views: 1 });
  });

  it('becomes 401 when the session has ended meanwhile, and touches no cookie', async () => {
    const app = await start(platform, store);
    const { tokens, answers } = await askAll(app, (sessions) =>
      Promise.all(sessions.map(({ token }) => app.sessions.destroy(token))),
    );
    expectReplaced(answers, UNAUTHORIZED);
    for (const token of tokens) expect(await stored(app, token)).toBeUndefined();
    expect(errorsOf(app)).toEqual([]);
  });

  it('becomes 500 when the data cannot be stored; the log names the field and not the data', async () => {
    const logged = vi.spyOn(Logs.prototype, 'error');
    const app = await start(platform, store);
    const { tokens, answers } = await askAll(app, (sessions) => {
      for (const session of sessions) {
        session.data.name = 'A-SECRET';
        (session.data as unknown as Record<string, unknown>).callback = () => 'A-SECRET';
      }
    });
    expectReplaced(answers, INTERNAL);
    for (const token of tokens) expect(await stored(app, token)).toEqual({ name: 'Ada' });
    const told = logged.mock.calls.map((words) => words.map(String).join(' '));
    expect(
      told.filter((words) => /could not be saved.*SessionDataError.*"callback"/s.test(words)),
    ).toHaveLength(ways.length);
    expect(told.join('\n')).not.toContain('A-SECRET');
  });
});

describe.each(EVERYWHERE)('a session over %s and %s', (platform, store) => {
  it('of a visitor who stores nothing is not stored, and no cookie is set', async () => {
    const wrapped = new WrappedStore();
    const app = await start(platform, 'memory', { session: { store: wrapped } });
    for (const path of ['/plain', '/unused', '/look', '/undo', '/optional', '/strict']) {
      const answer = await ask(app.url + path);
      expect([answer.status, answer.cookies, answer.headers['cache-control']], path).toEqual([
        200,
        [],
        undefined,
      ]);
    }
    expect(wrapped.calls).toMatchObject({ create: 0, get: 0, set: 0, touch: 0, destroy: 0 });
    expect((await ask(`${app.url}/look`)).body).toEqual({ data: {}, stored: false });
  });

  it('appears with the first write, and is the same for the requests after it', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    const first = await jar.ask('/views');
    expect(first.body).toEqual({ views: 1 });
    expect(first.cookies).toHaveLength(1);
    const second = await jar.ask('/views');
    expect([second.body, second.cookies]).toEqual([{ views: 2 }, []]);
    expect((await jar.ask('/look')).body).toEqual({ data: { views: 2 }, stored: true });
    const session = await app.sessions.get(jar.value());
    expect(session?.metadata.ip).toMatch(/127\.0\.0\.1$/);
  });

  it('appears with csrfToken(), which is the same in the requests after it', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    const first = await jar.ask('/csrf-token');
    expect(first.body).toEqual({ token: expect.stringMatching(/^[\w-]{43}$/) });
    expect(await stored(app, jar.value())).toEqual({});
    const second = await jar.ask('/csrf-token');
    expect([second.body, second.cookies]).toEqual([first.body, []]);
  });

  it('appears with a write of its own before the answer', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    expect((await jar.ask('/write-now')).cookies).toHaveLength(1);
    expect(await stored(app, jar.value())).toEqual({ views: 1 });
  });

  it('that was read from the store, not from the near cache, is saved like any other', async () => {
    const app = await start(platform, store, { session: { cache: false } });
    const jar = new CookieJar(app.url);
    for (let views = 1; views <= 3; views++) expect((await jar.ask('/views')).body).toEqual({ views });
    expect(await stored(app, jar.value())).toEqual({ views: 3 });
  });

  it('counts 50 views in a row', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    for (let views = 1; views <= 50; views++) expect((await jar.ask('/views')).body).toEqual({ views });
    expect(await stored(app, jar.value())).toEqual({ views: 50 });
  });

  it('keeps 50 fields that parallel requests of one browser set', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await jar.ask('/views');
    const keys = Array.from({ length: 50 }, (_, index) => `field${index}`);
    const answers = await Promise.all(keys.map((key) => jar.ask(`/set/${key}/x`)));
    expect(answers.map(({ status, cookies }) => [status, cookies])).toEqual(keys.map(() => [200, []]));
    expect(await stored(app, jar.value())).toEqual({
      views: 1,
      ...Object.fromEntries(keys.map((key) => [key, 'x'])),
    });
  });

  it('shows each write to the next request of its client, 500 of 500', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    let seen = 0;
    for (let round = 1; round <= 500; round++) {
      await jar.ask(`/set/round/${round}`);
      const { body } = await jar.ask('/look');
      if ((body as { data: { round: string } }).data.round === String(round)) seen++;
    }
    expect(seen).toBe(500);
  });

  it('that does not exist any more: its cookie is neither adopted nor cleared', async () => {
    const app = await start(platform, store);
    for (const planted of [NOBODYS, 'garbage', 'x'.repeat(5000)]) {
      const look = await ask(`${app.url}/look`, withSid(planted));
      expect([look.status, look.cookies]).toEqual([200, []]);
      const answer = await ask(`${app.url}/views`, withSid(planted));
      const token = cookieOf(answer);
      expect(token).toMatch(/^[\w-]{44}$/);
      expect(token).not.toBe(planted);
      expect(await stored(app, planted)).toBeUndefined();
    }
  });

  describe('login()', () => {
    it('gives a visitor without a session one of the user’s', async () => {
      const app = await start(platform, store);
      const jar = new CookieJar(app.url);
      const { status, body } = await jar.ask('/login/ada', { method: 'POST' });
      expect([status, body]).toEqual([201, expect.objectContaining({ changed: true, data: {} })]);
      const list = await app.registry.getUserSessions('ada');
      expect(list.map(({ id }) => id)).toEqual([(body as { id: string }).id]);
      expect((await jar.ask('/guarded')).status).toBe(200);
    });

    it('keeps what the visitor stored before, and refuses the old token', async () => {
      const app = await start(platform, store);
      const jar = new CookieJar(app.url);
      await jar.ask('/set/cart/book');
      const old = jar.value()!;
      const answer = await jar.ask('/login/ada', { method: 'POST' });
      expect(answer.body).toMatchObject({ changed: true, data: { cart: 'book' } });
      expect(answer.cookies).toHaveLength(1);
      expect(jar.value()).not.toBe(old);
      expect((await ask(`${app.url}/guarded`, withSid(old))).status).toBe(401);
      expect((await ask(`${app.url}/look`, withSid(old))).body).toEqual({ data: {}, stored: false });
      expect((await jar.ask('/look')).body).toEqual({ data: { cart: 'book' }, stored: true });
    });

    it('from one user to another drops the data', async () => {
      const app = await start(platform, store);
      const jar = new CookieJar(app.url);
      await jar.ask('/login/ada', { method: 'POST' });
      await jar.ask('/set/cart/book');
      const adas = jar.value()!;
      expect((await jar.ask('/login/ben', { method: 'POST' })).body).toMatchObject({ data: {} });
      expect((await jar.ask('/look')).body).toEqual({ data: {}, stored: true });
      expect(await stored(app, adas)).toBeUndefined();
      expect(await app.registry.getUserSessions('ada')).toEqual([]);
    });

    it('of a planted token: the visitor gets another one, and whoever planted it nothing', async () => {
      const app = await start(platform, store);
      const attacker = new CookieJar(app.url);
      await attacker.ask('/views');
      const planted = attacker.value()!;
      const victim = new CookieJar(app.url).set('sid', planted);
      await victim.ask('/login/ada', { method: 'POST' });
      expect(victim.value()).not.toBe(planted);
      expect((await attacker.ask('/guarded')).status).toBe(401);
      expect((await victim.ask('/guarded')).status).toBe(200);
    });

    it('before a handler that fails: the cookie is in step with the store all the same', async () => {
      const app = await start(platform, store);
      const jar = new CookieJar(app.url);
      await jar.ask('/views');
      const answer = await jar.ask('/login-and-fail/ada', { method: 'POST' });
      expect([answer.status, answer.cookies.length]).toEqual([404, 1]);
      expect(await stored(app, jar.value())).toEqual({ name: 'kept', views: 7 });
      expect((await jar.ask('/guarded')).body).toEqual({ name: 'kept' });
    });

    it('twice in parallel with one cookie: one wins, and the other is told that its session is gone', async () => {
      const app = await start(platform, store, {
        providers: [{ provide: APP_FILTER, useClass: SessionExceptionFilter }],
      });
      for (let round = 0; round < 20; round++) {
        const jar = new CookieJar(app.url);
        await jar.ask('/views');
        const request = { method: 'POST', headers: { cookie: jar.header } };
        const answers = await Promise.all([1, 2].map(() => ask(`${app.url}/login/ada`, request)));
        for (const { status, cookies } of answers) {
          expect([201, 401]).toContain(status);
          expect(cookies).toHaveLength(status === 201 ? 1 : 0);
        }
        expect(answers.some(({ status }) => status === 201)).toBe(true);
      }
      expect(errorsOf(app)).toEqual([]);
    });
  });

  it('regenerate() keeps the cookie in step with the store', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await jar.ask('/views');
    for (let round = 0; round < 5; round++) {
      const old = jar.value()!;
      const answer = await jar.ask('/regenerate', { method: 'POST' });
      expect(answer.cookies).toHaveLength(1);
      expect(answer.headers['cache-control']).toBe('no-store');
      expect(await stored(app, old)).toBeUndefined();
      expect(await stored(app, jar.value())).toEqual({ views: 1 });
    }
  });

  it('destroy() clears the cookie with the attributes it was set with; nobody else does', async () => {
    const app = await start(platform, store, {
      session: { cookie: { path: '/', maxAge: '1h', sameSite: 'strict', name: 'mine' } },
    });
    const set = await ask(`${app.url}/views`);
    const token = cookieOf(set, 'mine')!;
    const cookie = { headers: { cookie: `mine=${token}` } };
    const out = await ask(`${app.url}/logout`, { method: 'POST', ...cookie });
    expect(out.status).toBe(201);
    expect(out.cookies).toHaveLength(1);
    const fixed = (line: string) => attributesOf(line).filter((part) => !/^(Max-Age|Expires)=/.test(part));
    expect(fixed(out.cookies[0]!)).toEqual(fixed(set.cookies[0]!));
    expect(out.cookies[0]).toMatch(/^mine=; Max-Age=0;.*Expires=Thu, 01 Jan 1970 00:00:00 GMT/);
    expect(out.headers['cache-control']).toBe('no-store');
    expect(await stored(app, token)).toBeUndefined();
    for (const path of ['/guarded', '/look', '/unused'])
      expect((await ask(app.url + path, cookie)).cookies, path).toEqual([]);
    const again = await ask(`${app.url}/logout`, { method: 'POST', ...cookie });
    expect([again.status, again.cookies]).toEqual([201, []]);
  });

  it('200 slow writers while another request signs out: never resurrected, never 500, no cookie touched', async () => {
    const app = await start(platform, store);
    const statuses: Record<number, number> = {};
    let release: () => void = () => undefined;
    let reached: () => void = () => undefined;
    hooks.beforeAnswer = () => {
      reached();
      return new Promise<void>((resolve) => (release = resolve));
    };
    for (let round = 0; round < 200; round++) {
      const jar = new CookieJar(app.url);
      await jar.ask('/login/ada', { method: 'POST' });
      const old = jar.value()!;
      const atWork = new Promise<void>((resolve) => (reached = resolve));
      const slow = ask(`${app.url}/slow-write`, withSid(old));
      await atWork;
      // In turns: before the sign-out is sent, while it is under way, and after it and a new login.
      if (round % 3 === 0) release();
      const signedOut = jar.ask('/logout', { method: 'POST' });
      if (round % 3 === 1) release();
      expect((await signedOut).status).toBe(201);
      expect((await jar.ask('/login/ada', { method: 'POST' })).status).toBe(201);
      release();
      const answer = await slow;
      statuses[answer.status] = (statuses[answer.status] ?? 0) + 1;
      expect(answer.cookies).toEqual([]);
      expect([200, 401]).toContain(answer.status);
      if (answer.status === 401) expect(answer.body).toEqual(UNAUTHORIZED);
      expect(await stored(app, old)).toBeUndefined();
      expect((await jar.ask('/guarded')).status, 'the browser that has signed in anew').toBe(200);
    }
    expect(statuses[401]).toBeGreaterThanOrEqual(60);
    expect(errorsOf(app)).toEqual([]);
  }, 60_000);
});

describe.each(EVERYWHERE)('a response over %s and %s', (platform, store) => {
  it('of 64 MiB to a slow reader arrives whole, and is not gathered in memory', async () => {
    const app = await start(platform, store);
    let received = 0;
    let beforeReading = 0;
    await new Promise<void>((resolve, reject) => {
      const outgoing = request(`${app.url}/big-file`, { agent: false }, (incoming) => {
        setTimeout(() => {
          beforeReading = endless.produced * CHUNK.length;
          incoming.on('data', (chunk: Buffer) => (received += chunk.length));
          incoming.on('end', resolve);
          incoming.on('error', reject);
        }, 300); // a reader that does nothing: only the sockets' buffers fill
      });
      outgoing.on('error', reject);
      outgoing.end();
    });
    expect(beforeReading).toBeLessThan(16 * 2 ** 20);
    expect(received).toBe(BIG_CHUNKS * CHUNK.length);
  });

  it.each(['endless-file', 'endless-pipe', 'endless-events'])(
    'that never ends (%s) is replaced when the session cannot be saved, and its source is let go',
    async (path) => {
      const wrapped = new WrappedStore({ exclusive: true });
      const app = await start(platform, 'memory', { session: { store: wrapped } });
      const { token } = await app.sessions.create({ name: 'Ada' });
      await ask(`${app.url}/guarded`, withSid(token));
      wrapped.down = true;
      endless.live = 0;
      const answer = await ask(`${app.url}/${path}`, withSid(token));
      expect([answer.status, answer.body]).toEqual([503, UNAVAILABLE]);
      if (path === 'endless-pipe') {
        const { produced } = endless;
        await sleep(50); // a negative: nothing more is taken
        expect(endless.produced).toBe(produced);
      } else {
        await waitFor(() => endless.live === 0, { message: 'the source to be closed', timeoutMs: 2000 });
      }
      expect((await ask(`${app.url}/plain`)).status).toBe(200);
    },
  );

  it('to a client that has gone away: the change is saved all the same, by every way of answering', async () => {
    const app = await start(platform, store);
    // Nest itself cancels an observable whose client has gone.
    const ways = waysOf(platform).filter(({ method, path }) => method === undefined && path !== 'observable');
    const tokens = await Promise.all(
      ways.map(async () => (await app.sessions.create({ name: 'Ada' })).token),
    );
    const { wait, reachedBy, open } = barrier();
    hooks.beforeAnswer = wait;
    const sockets = ways.map(({ path }, index) => {
      const socket = connect(Number(new URL(app.url).port), '127.0.0.1');
      socket.on('error', () => undefined);
      socket.write(`GET /way/${path} HTTP/1.1\r\nHost: x\r\nCookie: sid=${tokens[index]}\r\n\r\n`);
      return socket;
    });
    await reachedBy(ways.length);
    for (const socket of sockets) socket.resetAndDestroy();
    await sleep(50); // until the server has noticed; nothing tells
    open();
    const unsaved = new Set(ways.map(({ name }) => name));
    await waitFor(async () => {
      for (const [index, { name }] of ways.entries())
        if ((await stored(app, tokens[index]))?.views === 1) unsaved.delete(name);
      return unsaved.size === 0;
    }).catch(() => undefined); // then the next line names them
    expect([...unsaved]).toEqual([]);
    expect((await ask(`${app.url}/plain`)).status).toBe(200);
  });

  it('to a client that goes away while its session is being saved: saved, and no error is logged', async () => {
    const wrapped = new WrappedStore({ exclusive: true });
    const app = await start(platform, 'memory', { session: { store: wrapped } });
    const { token } = await app.sessions.create({ name: 'Ada' });
    const { wait, reachedBy, open } = barrier();
    const set = wrapped.set.bind(wrapped);
    wrapped.set = async (change) => {
      await wait();
      return set(change);
    };
    const socket = connect(Number(new URL(app.url).port), '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write(`GET /views HTTP/1.1\r\nHost: x\r\nCookie: sid=${token}\r\n\r\n`);
    await reachedBy(1);
    socket.resetAndDestroy();
    await sleep(50); // until the server has noticed; nothing tells
    open();
    await waitFor(async () => (await stored(app, token))?.views === 1);
    expect(errorsOf(app)).toEqual([]);
  });

  it('with a header that Node refuses: the handler’s mistake is answered, and the process lives on', async () => {
    const app = await start(platform, store);
    const rejected: unknown[] = [];
    const listeners = process.listeners('unhandledRejection');
    process
      .removeAllListeners('unhandledRejection')
      .on('unhandledRejection', (error) => rejected.push(error));
    try {
      const answer = await Promise.race([ask(`${app.url}/bad-header`), sleep(2000, null)]);
      await sleep(10); // unhandled rejections are told after the microtasks
      expect(rejected).toEqual([]);
      expect(answer?.status).toBe(500);
    } finally {
      process.removeAllListeners('unhandledRejection');
      for (const listener of listeners) process.on('unhandledRejection', listener);
      (app.app.getHttpServer() as Server).closeAllConnections();
    }
  });

  describe('that has begun before the session is changed', () => {
    const LATE = /^error .*changed after the response had begun.*await session\.save\(\)/;

    async function ofStored(path: string) {
      const app = await start(platform, store);
      const { token } = await app.sessions.create({ name: 'Ada' });
      await ask(`${app.url}/guarded`, withSid(token));
      afterwards.arm();
      const answer = await ask(`${app.url}/${path}`, withSid(token));
      expect([answer.status, answer.cookies]).toEqual([200, []]);
      await sleep(20); // until the response is closed on the server, too
      afterwards.go();
      await afterwards.done;
      return { app, token };
    }

    it.each(['header-first', 'look-then-change', 'change-without-a-look'])(
      '(%s): an error is logged once, with the fix, and nothing is stored',
      async (path) => {
        const { app, token } = await ofStored(path);
        await waitFor(() => app.logs.matching(LATE).length > 0, { message: 'the error' });
        expect(errorsOf(app)).toHaveLength(1);
        expect(errorsOf(app)[0]).not.toContain(token);
        expect(await stored(app, token)).toEqual({ name: 'Ada' });
        expect((await ask(`${app.url}/plain`)).status).toBe(200);
      },
    );

    it('of a visitor without a session, and saved by its own: no cookie can be set any more, which is an error', async () => {
      const app = await start(platform, store);
      afterwards.arm();
      const answer = await ask(`${app.url}/change-and-save`);
      expect([answer.status, answer.cookies]).toEqual([200, []]);
      await sleep(20); // until the response is closed on the server, too
      afterwards.go();
      const outcome = await afterwards.done.then(
        () => 'saved',
        () => 'refused', // says it as well
      );
      if (outcome === 'saved') await waitFor(() => app.logs.matching(/^error .*response/).length > 0);
    });

    it('and saved by its own: nothing is logged', async () => {
      const { app, token } = await ofStored('change-and-save');
      expect(await stored(app, token)).toEqual({ name: 'Ada', views: 5 });
      expect(errorsOf(app)).toEqual([]);
    });
  });
});

describe.each(PLATFORMS)('over %s', (platform) => {
  it.runIf(platform === 'express')('a 304 carries the cookie, and the change is saved', async () => {
    const app = await start(platform, 'memory');
    const { etag = '' } = (await ask(`${app.url}/way/return`)).headers;
    const answer = await ask(`${app.url}/way/return`, { headers: { 'if-none-match': etag } });
    expect([answer.status, answer.text, answer.cookies.length]).toEqual([304, '', 1]);
    expect(answer.headers['cache-control']).toBe('no-store');
    expect(await stored(app, cookieOf(answer))).toEqual({ views: 1 });
  });

  it('a visitor who destroys a session that was never stored leaves nothing', async () => {
    const wrapped = new WrappedStore();
    const app = await start(platform, 'memory', { session: { store: wrapped } });
    const answer = await ask(`${app.url}/destroy-of-nobody`, { method: 'POST' });
    expect([answer.status, answer.cookies]).toEqual([201, []]);
    expect(wrapped.calls).toMatchObject({ create: 0, set: 0, destroy: 0 });
  });

  it('a background touch that finds the session gone: what the handler changed then is not lost in silence', async () => {
    const wrapped = new WrappedStore({ exclusive: true });
    const app = await start(platform, 'memory', { session: { store: wrapped, touchInterval: 0 } });
    const { token, id } = await app.sessions.create({ name: 'Ada' });
    await wrapped.inner.destroy(id); // as another process does: the near cache does not know yet
    hooks.beforeAnswer = () => waitFor(() => wrapped.calls.touch === 1);
    const touched = ask(`${app.url}/slow-write`, withSid(token));
    const answer = await touched;
    expect([answer.status, answer.body, answer.cookies]).toEqual([401, UNAUTHORIZED, []]);
  });

  describe('on a Redis of its own', () => {
    /** No heartbeat and no sweep within the test: every command is a request's. */
    const QUIET = { coherence: { leaseMs: 60_000, heartbeatMs: 30_000 }, sweepInterval: '1h' };
    const WRITES = ['set', 'setrange', 'del', 'unlink', 'zadd', 'zrem', 'pexpireat', 'publish'];

    async function counted() {
      const redis = await RedisServer.start();
      onTestFinished(() => redis.stop());
      const app = await start(platform, 'memory', { session: { redis: redis.url, ...QUIET } });
      await untilLive(app);
      const client = new Redis(redis.url);
      onTestFinished(() => client.disconnect());
      await client.ping();
      /** Calls of each command, that of INFO and of an opening link left out, since the last time. */
      const commands = async (): Promise<string[]> => {
        const info = await client.info('commandstats');
        await app.registry.count({ activeWithin: '1h' }); // writes what was noted of earlier requests now
        await client.call('CONFIG', 'RESETSTAT');
        return [...info.matchAll(/^cmdstat_([a-z]+)[^:]*:calls=/gm)]
          .map(([, name]) => name!)
          .filter((name) => !['info', 'config', 'ping'].includes(name));
      };
      await commands();
      return { app, commands };
    }

    it('a route that uses no session costs no command, whatever the request carries', async () => {
      const { app, commands } = await counted();
      const jar = new CookieJar(app.url);
      await jar.ask('/views');
      app.cache.clear();
      await commands();
      for (const cookie of ['a=1', jar.header, `sid=${NOBODYS}`])
        await ask(`${app.url}/plain`, { headers: { cookie } });
      expect(await commands()).toEqual([]);
    });

    it('a visitor who stores nothing costs no command, one with an unknown token no write', async () => {
      const { app, commands } = await counted();
      for (const path of ['/unused', '/look', '/undo', '/optional']) await ask(app.url + path);
      expect(await commands()).toEqual([]);
      for (const path of ['/unused', '/look', '/undo', '/optional', '/guarded']) {
        const answer = await ask(app.url + path, withSid(NOBODYS));
        expect(answer.cookies).toEqual([]);
      }
      expect((await commands()).filter((name) => WRITES.includes(name))).toEqual([]);
    });

    it('a route that only looks at a stored session writes nothing', async () => {
      const { app, commands } = await counted();
      const jar = new CookieJar(app.url);
      await jar.ask('/views');
      await commands();
      for (const path of ['/unused', '/look', '/guarded', '/strict']) {
        app.cache.clear();
        expect((await jar.ask(path)).cookies).toEqual([]);
      }
      const seen = await commands();
      expect(seen).not.toEqual([]);
      expect(seen.filter((name) => WRITES.includes(name))).toEqual([]);
    });
  });

  describe('two processes on one Redis', () => {
    async function two() {
      const session = onRedis();
      const one = await start(platform, 'memory', { session });
      const other = await start(platform, 'memory', { session });
      await Promise.all([untilLive(one), untilLive(other)]);
      return { one, other };
    }

    it('a write here is seen there on a @StrictSession() route at once, 500 of 500', async () => {
      const { one, other } = await two();
      const jar = new CookieJar(one.url);
      let seen = 0;
      for (let round = 1; round <= 500; round++) {
        await jar.ask(`/set/round/${round}`);
        const { body } = await jar.at(other.url).ask('/strict');
        if ((body as { data: { round: string } }).data.round === String(round)) seen++;
      }
      expect(seen).toBe(500);
    });

    it('after login() here, the old token is refused there', async () => {
      const { one, other } = await two();
      const jar = new CookieJar(one.url);
      await jar.ask('/views');
      const there = jar.at(other.url);
      expect((await there.ask('/guarded')).status).toBe(200);
      await jar.ask('/login/ada', { method: 'POST' });
      expect((await there.ask('/strict')).body).toEqual({ data: {} });
      await waitFor(async () => (await there.ask('/guarded')).status === 401, { timeoutMs: 2000 });
      expect((await jar.at(other.url).ask('/guarded')).status).toBe(200);
    });

    it('both write: each field of each is kept', async () => {
      const { one, other } = await two();
      const jar = new CookieJar(one.url);
      await jar.ask('/views');
      const there = jar.at(other.url);
      await Promise.all(
        Array.from({ length: 30 }, (_, index) => [
          jar.ask(`/set/here${index}/x`),
          there.ask(`/set/there${index}/x`),
        ]).flat(),
      );
      expect(Object.keys((await stored(one, jar.value())) ?? {})).toHaveLength(61);
    });
  });

  describe('the cookie', () => {
    it('is renewed with each touch that was written, if it has a life of its own', async () => {
      const app = await start(platform, 'memory', {
        session: { cookie: { maxAge: '1h' }, idleTimeout: '2h', touchInterval: 0 },
      });
      const jar = new CookieJar(app.url);
      const first = await jar.ask('/views');
      expect(first.cookies[0]).toContain('Max-Age=3600');
      const before = Date.now();
      const renewed = await jar.ask('/look');
      expect(cookieOf(renewed)).toBe(cookieOf(first));
      expect(renewed.headers['cache-control']).toBe('no-store');
      const expires = Date.parse(/Expires=([^;]+)/.exec(renewed.cookies[0]!)![1]!);
      expect(Math.abs(expires - before - 3_600_000)).toBeLessThan(3_000);
    });

    it('is not renewed between two touches, nor by a touch that failed', async () => {
      const wrapped = new WrappedStore({ exclusive: true });
      const app = await start(platform, 'memory', {
        session: { store: wrapped, cookie: { maxAge: '1h' }, idleTimeout: '10s', touchInterval: '100ms' },
      });
      const jar = new CookieJar(app.url);
      await jar.ask('/views');
      expect((await jar.ask('/look')).cookies).toEqual([]);
      wrapped.failing = ['touch'];
      await sleep(120); // until a touch is due
      const failed = await jar.ask('/look');
      expect([failed.status, failed.cookies]).toEqual([200, []]);
      expect(wrapped.calls.touch).toBeGreaterThan(0);
      wrapped.failing = [];
      expect((await jar.ask('/look')).cookies).toHaveLength(1);
    });

    it.each(['/views', '/write-now', '/slow-write'])(
      'is renewed by a write (%s), which prolongs the session',
      async (path) => {
        const app = await start(platform, 'memory', { session: { cookie: { maxAge: '1h' } } });
        const jar = new CookieJar(app.url);
        await jar.ask('/set/a/1');
        expect((await jar.ask(path)).cookies).toHaveLength(1);
      },
    );

    it('lives no longer than the session can', async () => {
      const app = await start(platform, 'memory', {
        session: { cookie: { maxAge: '30d' }, idleTimeout: '10m' },
      });
      expect((await ask(`${app.url}/views`)).cookies[0]).toMatch(/Max-Age=(600|599);/);
    });

    it('without a life of its own is never sent again', async () => {
      const app = await start(platform, 'memory', { session: { touchInterval: 0 } });
      const jar = new CookieJar(app.url);
      expect((await jar.ask('/views')).cookies[0]).not.toMatch(/Max-Age|Expires/);
      for (const path of ['/look', '/views', '/guarded', '/write-now'])
        expect((await jar.ask(path)).cookies, path).toEqual([]);
    });
  });

  describe('several transports', () => {
    it.each([
      ['an unknown', NOBODYS],
      ['an ended', undefined],
      ['a garbled', '%%%'],
    ])('%s cookie does not hide a valid bearer token', async (_what, stale) => {
      const app = await start(platform, 'memory');
      const { token } = await app.sessions.create({ name: 'Ada' });
      const ended = await app.sessions.create();
      await ended.destroy();
      const answer = await ask(`${app.url}/guarded`, {
        headers: { cookie: `sid=${stale ?? ended.token}`, authorization: `Bearer ${token}` },
      });
      expect([answer.status, answer.body, answer.cookies]).toEqual([200, { name: 'Ada' }, []]);
    });

    it('the first of two valid ones counts', async () => {
      const app = await start(platform, 'memory', { session: { transport: ['bearer', 'cookie'] } });
      const [ada, ben] = await Promise.all(['Ada', 'Ben'].map((name) => app.sessions.create({ name })));
      const headers = { cookie: `sid=${ada!.token}`, authorization: `Bearer ${ben!.token}` };
      expect((await ask(`${app.url}/guarded`, { headers })).body).toEqual({ name: 'Ben' });
    });

    it('a session that came as a bearer token gets no cookie, whatever happens to it', async () => {
      const app = await start(platform, 'memory', {
        session: { touchInterval: 0, cookie: { maxAge: '1h' } },
      });
      const { token } = await app.sessions.create({ name: 'Ada' });
      const headers = { authorization: `Bearer ${token}` };
      for (const [method, path] of [
        ['GET', '/look'],
        ['GET', '/views'],
        ['POST', '/regenerate'],
      ] as const)
        expect((await ask(app.url + path, { method, headers })).cookies, path).toEqual([]);
      const { token: another } = await app.sessions.create({ name: 'Ada' });
      const out = await ask(`${app.url}/logout`, {
        method: 'POST',
        headers: { authorization: `Bearer ${another}` },
      });
      expect([out.status, out.cookies]).toEqual([201, []]);
    });

    it('a header of one’s own is answered in that header', async () => {
      const app = await start(platform, 'memory', { session: { transport: { header: 'X-Auth-Token' } } });
      const first = await ask(`${app.url}/views`);
      const token = first.headers['x-auth-token'] as string;
      expect(token).toMatch(/^[\w-]{44}$/);
      expect([first.cookies, first.headers['cache-control']]).toEqual([[], 'no-store']);
      const second = await ask(`${app.url}/views`, { headers: { 'x-auth-token': token } });
      expect([second.body, second.headers['x-auth-token']]).toEqual([{ views: 2 }, undefined]);
      const moved = await ask(`${app.url}/regenerate`, {
        method: 'POST',
        headers: { 'x-auth-token': token },
      });
      expect(moved.headers['x-auth-token']).toMatch(/^[\w-]{44}$/);
      expect(moved.headers['x-auth-token']).not.toBe(token);
    });

    it('a transport of one’s own reads, writes and clears; its lines and the handler’s are all kept', async () => {
      const own: TokenTransport = {
        read: ({ headers }) => headers['x-device'] as string | undefined,
        write(add, { token, expiresIn }) {
          add('X-Device', token);
          add('X-Expires-In', String(expiresIn !== null && expiresIn > 0));
          add('set-cookie', 'one=1');
          add('set-cookie', 'two=2');
        },
        clear: (add) => add('X-Device', 'forget'),
      };
      const app = await start(platform, 'memory', { session: { transport: own } });
      const first = await ask(`${app.url}/way/passthrough`);
      expect(first.headers).toMatchObject({
        'x-expires-in': 'true',
        'cache-control': 'no-store',
        'x-own': '1',
      });
      expect([...first.cookies].sort()).toEqual(['one=1', 'own=1', 'two=2']);
      const device = { 'x-device': first.headers['x-device'] as string };
      expect((await ask(`${app.url}/look`, { headers: device })).body).toMatchObject({ data: { views: 1 } });
      const out = await ask(`${app.url}/logout`, { method: 'POST', headers: device });
      expect(out.headers['x-device']).toBe('forget');
    });

    it('a transport of one’s own that throws when it writes: 500, logged, and the process lives on', async () => {
      const own: TokenTransport = {
        read: () => undefined,
        write: () => {
          throw new Error('a bug of the transport');
        },
      };
      const logged = vi.spyOn(Logs.prototype, 'error');
      const app = await start(platform, 'memory', { session: { transport: own } });
      const answer = await ask(`${app.url}/views`);
      expect([answer.status, answer.body]).toEqual([500, INTERNAL]);
      const told = logged.mock.calls.map((words) => words.map(String).join(' '));
      expect(told).toEqual([expect.stringContaining('a bug of the transport')]);
    });
  });
});

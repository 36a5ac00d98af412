// What a request gets when the store cannot be asked, as the option and the decorators say. Both links to Redis go
// through a proxy that the tests cut.
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  Controller,
  Get,
  Inject,
  Injectable,
  Param,
  Post,
  UseGuards,
  type CanActivate,
  type ExecutionContext,
} from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { describe, expect, it, onTestFinished } from 'vitest';
import {
  CsrfGuard,
  HttpSessionService,
  OnStoreUnavailable,
  OptionalSession,
  PublicSession,
  RecentLogin,
  RequireUser,
  Session,
  SessionExceptionFilter,
  SessionGuard,
  StrictSession,
  type ActiveSession,
  type FieldSession,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import {
  createApp,
  PLATFORMS,
  startApp,
  UNAUTHORIZED,
  type Data,
  type Platform,
  type TestApp,
} from './support/test-app.js';
import { PlainServer } from './support/plain-server.js';
import { onRedis, untilLive } from './support/test-redis.js';
import { WrappedStore } from './support/wrapped-store.js';

const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };
const FORBIDDEN = { statusCode: 403, message: 'The CSRF token is missing or wrong', error: 'Forbidden' };

type Visitor = ActiveSession<Data>;

const told = ({ source, isStored, userId, data }: Visitor) => ({ source, isStored, userId, name: data.name });

/** Each of these changes the session, or hands out what only a stored one makes good. */
const WRITES: Record<string, (session: Visitor) => unknown> = {
  draft: (session) => void (session.data.views = 1),
  set: (session) => session.set('views', 1),
  update: (session) => session.update({ views: 1 }),
  delete: (session) => session.delete('views'),
  clear: (session) => session.clear(),
  save: (session) => session.save(),
  regenerate: (session) => session.regenerate(),
  login: (session) => session.regenerate({ userId: 'eve' }),
  destroy: (session) => session.destroy(),
};

/** No change for a visitor who has nothing stored. */
const ALL = { ...WRITES, touch: (session: Visitor) => session.touch() };

/** Where a handler that has its session waits for the test. */
const gate = { reached: false, open: () => undefined as void };

@Controller()
@UseGuards(SessionGuard)
class AppController {
  @Get('required')
  required(@Session() session: Visitor) {
    return told(session);
  }
  @Get('optional')
  @OptionalSession()
  optional(@Session() session: Visitor) {
    return told(session);
  }
  @Get('public')
  @PublicSession()
  public(@Session() session: Visitor) {
    return told(session);
  }
  @Get('user')
  @RequireUser()
  user(@Session() session: Visitor) {
    return told(session);
  }
  @Get('recent')
  @OptionalSession()
  @RecentLogin('1h')
  recent(@Session() session: Visitor) {
    return told(session);
  }
  @Get('strict')
  @OptionalSession()
  @StrictSession()
  strict(@Session() session: Visitor) {
    return told(session);
  }
  @Get('deny')
  @OptionalSession()
  @OnStoreUnavailable('deny')
  deny(@Session() session: Visitor) {
    return told(session);
  }
  @Get('anonymous')
  @OptionalSession()
  @OnStoreUnavailable('anonymous')
  anonymous(@Session() session: Visitor) {
    return told(session);
  }
  @Post('csrf')
  @OptionalSession()
  @UseGuards(CsrfGuard)
  csrf() {
    return { done: true };
  }
  @Get('write/:how')
  @OptionalSession()
  async write(@Session() session: Visitor, @Param('how') how: keyof typeof ALL) {
    await ALL[how]!(session);
    return { done: true };
  }
  @Get('caught/:how')
  @OptionalSession()
  async caught(@Session() session: Visitor, @Param('how') how: keyof typeof ALL) {
    const code: unknown = await Promise.resolve(ALL[how]!(session)).then(
      () => 'done',
      (error: { code: string; outcomeUnknown: boolean }) => [error.code, error.outcomeUnknown],
    );
    return { code };
  }
  @Get('late/:how')
  @OptionalSession()
  async late(@Session() session: Visitor, @Param('how') how: keyof typeof ALL) {
    gate.reached = true;
    await new Promise<void>((resolve) => (gate.open = resolve));
    await ALL[how]!(session);
    return { done: true };
  }
  @Get('csrf-token')
  @OptionalSession()
  token(@Session() session: Visitor) {
    return { token: session.csrfToken() };
  }
}

/** What that guard has read. */
const seen: unknown[] = [];

/** Reads the session before the route's own guard does, and is content with what the module's policy gives. */
@Injectable()
class LooksFirst implements CanActivate {
  constructor(@Inject(HttpSessionService) private readonly http: HttpSessionService) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const request = context.switchToHttp().getRequest<IncomingMessage & { raw?: IncomingMessage }>();
    const response = context.switchToHttp().getResponse<ServerResponse & { raw?: ServerResponse }>();
    const session = this.http.attachSession(request.raw ?? request, response.raw ?? response);
    seen.push(await session.get('name'));
    return true;
  }
}

@Controller()
@UseGuards(SessionGuard)
class StaleController {
  @Get('stale')
  @OnStoreUnavailable('stale')
  stale(@Session() session: Visitor) {
    return told(session);
  }
  @Get('not')
  not(@Session() session: Visitor) {
    return told(session);
  }
}

@Controller()
@UseGuards(LooksFirst, SessionGuard)
class TwoLooksController {
  @Get('twice')
  @OptionalSession()
  twice(@Session() session: Visitor) {
    return told(session);
  }
  @Get('twice-strictly')
  @OptionalSession()
  @StrictSession()
  strictly(@Session() session: Visitor) {
    return told(session);
  }
}

interface Rig extends TestApp {
  cut(): Promise<void>;
  mend(token: string): Promise<void>;
}

async function startRig(
  platform: Platform,
  session: SessionModuleOptions,
  controllers: (typeof AppController | typeof StaleController | typeof TwoLooksController)[] = [
    AppController,
  ],
): Promise<Rig> {
  const { redis, keyPrefix } = onRedis();
  const target = new URL(redis);
  const proxy = await TcpProxy.start({
    targetHost: target.hostname,
    targetPort: Number(target.port || 6379),
  });
  onTestFinished(() => proxy.close());
  const app = await startApp(platform, {
    session: {
      redis: proxy.url,
      keyPrefix,
      commandTimeout: '200ms',
      cookie: { maxAge: '1h' },
      touchInterval: 0,
      ...session,
    },
    controllers,
    providers: [{ provide: APP_FILTER, useClass: SessionExceptionFilter }],
  });
  await untilLive(app);
  return {
    ...app,
    async cut() {
      proxy.refuse(true);
      proxy.cutAll();
      await waitFor(
        async () =>
          (await app.send('/deny', { cookie: 'A'.repeat(44) })).status !== 200 && proxy.connections === 0,
      );
    },
    async mend(token) {
      proxy.refuse(false);
      await waitFor(async () => (await app.send('/deny', { cookie: token })).status === 200);
    },
  };
}

const setsCookie = ({ headers }: { headers: Headers }) => headers.getSetCookie().length > 0;

describe.each(PLATFORMS)('the store cannot be asked: %s', (platform) => {
  it("'deny', the default: 503 wherever a token is looked up, 401 where there is none", async () => {
    const app = await startRig(platform, {});
    const { token } = await app.sessions.create({ name: 'Ada' });
    expect((await app.send('/required', { cookie: token })).status).toBe(200);
    await app.cut();
    for (const path of ['/required', '/optional', '/public', '/user', '/strict', '/deny']) {
      const reply = await app.send(path, { cookie: token });
      expect([path, reply.status, reply.body]).toEqual([path, 503, UNAVAILABLE]);
      expect(setsCookie(reply)).toBe(false);
    }
    expect((await app.send('/required')).body).toEqual(UNAUTHORIZED);
    expect((await app.send('/anonymous', { cookie: token })).body).toEqual({
      source: 'new',
      isStored: false,
      userId: null,
    });
  });

  it("'anonymous': routes that need no session go on without one; all else is 503, and never 401", async () => {
    const app = await startRig(platform, { onStoreUnavailable: 'anonymous' });
    const { token } = await app.sessions.create({ name: 'Ada' }, { userId: 'ada' });
    await app.cut();
    for (const path of ['/optional', '/public', '/strict']) {
      const reply = await app.send(path, { cookie: token });
      expect([path, reply.status, reply.body]).toEqual([
        path,
        200,
        { source: 'new', isStored: false, userId: null },
      ]);
      expect(setsCookie(reply)).toBe(false);
    }
    for (const path of ['/required', '/user', '/recent', '/deny', '/csrf-token']) {
      const reply = await app.send(path, { cookie: token });
      expect([path, reply.status, reply.body]).toEqual([path, 503, UNAVAILABLE]);
      expect(setsCookie(reply)).toBe(false);
    }
    // Who carries nothing is a visitor whatever the store says.
    expect((await app.send('/required')).body).toEqual(UNAUTHORIZED);
    expect((await app.send('/optional')).status).toBe(200);
    await app.mend(token);
    expect((await app.send('/user', { cookie: token })).body).toMatchObject({ userId: 'ada', name: 'Ada' });
  });

  it("'anonymous': nothing is stored or ended, and no cookie is set or cleared", async () => {
    const app = await startRig(platform, { onStoreUnavailable: 'anonymous' });
    const { token, id } = await app.sessions.create({ name: 'Ada' }, { userId: 'ada' });
    await app.cut();
    for (const how of Object.keys(WRITES)) {
      const reply = await app.send(`/write/${how}`, { cookie: token });
      expect([how, reply.status, reply.body]).toEqual([how, 503, UNAVAILABLE]);
      expect(setsCookie(reply)).toBe(false);
    }
    for (const how of ['set', 'regenerate', 'destroy', 'delete', 'clear']) {
      const reply = await app.send(`/caught/${how}`, { cookie: token });
      expect([how, reply.body]).toEqual([how, { code: ['SESSION_STORE_UNAVAILABLE', false] }]);
      expect(setsCookie(reply)).toBe(false);
    }
    await app.mend(token);
    expect(await app.registry.getUserSessions('ada')).toMatchObject([{ id }]);
    expect(await app.registry.count()).toBe(1);
    expect((await app.send('/write/set', { cookie: token })).status).toBe(200);
  });

  it("'anonymous': a CSRF token that cannot be checked is 503, not 403", async () => {
    const app = await startRig(platform, { onStoreUnavailable: 'anonymous' });
    const session = await app.sessions.create({ name: 'Ada' });
    const carried = {
      cookie: session.token,
      method: 'POST',
      headers: { 'x-csrf-token': session.csrfToken() },
    };
    expect((await app.send('/csrf', carried)).status).toBe(201);
    expect((await app.send('/csrf', { ...carried, headers: {} })).body).toEqual(FORBIDDEN);
    await app.cut();
    expect((await app.send('/csrf', carried)).body).toEqual(UNAVAILABLE);
    expect((await app.send('/csrf', { ...carried, headers: {} })).body).toEqual(UNAVAILABLE);
  });

  it("'stale': what was read before is read on, says so, and is told of once; what was not is 503", async () => {
    const app = await startRig(platform, { onStoreUnavailable: 'stale' });
    const events: string[] = [];
    app.events.on('staleRead', ({ id }) => void events.push(id));
    const session = await app.sessions.create({ name: 'Ada' }, { userId: 'ada' });
    const { token, id } = session;
    expect((await app.send('/user', { cookie: token })).body).toMatchObject({ source: 'cache' });
    const unread = await app.sessions.create({ name: 'Bob' });
    app.cache.delete(unread.id);
    await app.cut();
    for (const path of ['/required', '/optional', '/public', '/user', '/required']) {
      const reply = await app.send(path, { cookie: token });
      expect([path, reply.status, reply.body]).toEqual([
        path,
        200,
        { source: 'stale', isStored: true, userId: 'ada', name: 'Ada' },
      ]);
      expect(setsCookie(reply)).toBe(false);
    }
    expect(events).toEqual([id]);
    for (const path of ['/strict', '/recent', '/deny']) {
      expect([path, (await app.send(path, { cookie: token })).body]).toEqual([path, UNAVAILABLE]);
    }
    expect((await app.send('/required', { cookie: unread.token })).body).toEqual(UNAVAILABLE);
    await app.mend(token);
    expect(['store', 'cache']).toContain(
      ((await app.send('/required', { cookie: token })).body as { source: string }).source,
    );
    expect(events).toEqual([id]);
  });

  it("'stale': every write is 503, and changes nothing", async () => {
    const app = await startRig(platform, { onStoreUnavailable: 'stale', touchInterval: '60s' });
    const { token, id } = await app.sessions.create({ name: 'Ada' }, { userId: 'ada' });
    await app.cut();
    for (const how of Object.keys(ALL)) {
      const reply = await app.send(`/write/${how}`, { cookie: token });
      expect([how, reply.status, reply.body]).toEqual([how, 503, UNAVAILABLE]);
      expect(setsCookie(reply)).toBe(false);
      if (how === 'draft') continue;
      const caught = await app.send(`/caught/${how}`, { cookie: token });
      expect([how, caught.body]).toEqual([how, { code: ['SESSION_STORE_UNAVAILABLE', false] }]);
      expect(setsCookie(caught)).toBe(false);
    }
    expect((await app.send('/required', { cookie: token })).body).toMatchObject({ source: 'stale' });
    await app.mend(token);
    expect((await app.sessions.get(token, { fresh: true }))?.data).toEqual({ name: 'Ada' });
    expect(await app.registry.getUserSessions('ada')).toMatchObject([{ id }]);
  });

  it("'stale': for staleFor and no longer; never a session that this process ended, or tried to", async () => {
    const leaseMs = 300;
    const app = await startRig(platform, {
      onStoreUnavailable: 'stale',
      staleFor: '1s',
      coherence: { leaseMs },
    });
    const { token } = await app.sessions.create({ name: 'Ada' });
    const ended = await app.sessions.create({ name: 'Bob' });
    const tried = await app.sessions.create({ name: 'Eve' });
    await app.sessions.destroy(ended.token);
    const cutAt = performance.now();
    await app.cut();
    expect((await app.send('/required', { cookie: tried.token })).body).toMatchObject({ source: 'stale' });
    await expect(app.sessions.destroy(tried.token)).rejects.toMatchObject({
      code: 'SESSION_STORE_UNAVAILABLE',
    });
    expect((await app.send('/required', { cookie: tried.token })).status).toBe(503);
    expect((await app.send('/required', { cookie: ended.token })).status).toBe(503);
    let last = 0;
    await waitFor(async () => {
      const asked = performance.now();
      const { status } = await app.send('/required', { cookie: token });
      if (status === 200) last = asked;
      return status === 503;
    });
    // It was looked for no later than it was asked for plus the time a command has; lease and staleFor count before that.
    expect(last - cutAt).toBeLessThan(leaseMs + 1_000 + 100);
    expect(last - cutAt).toBeGreaterThan(300);
  });

  it.each(['anonymous', 'stale'] as const)(
    "'%s': a request that began without the store writes nothing though the store is back",
    async (onStoreUnavailable) => {
      const app = await startRig(platform, { onStoreUnavailable, touchInterval: '60s' });
      const { token, id } = await app.sessions.create({ name: 'Ada' }, { userId: 'ada' });
      for (const how of [
        'draft',
        'set',
        'login',
        'destroy',
        ...(onStoreUnavailable === 'stale' ? ['touch'] : []),
      ]) {
        await app.cut();
        gate.reached = false;
        const late = app.send(`/late/${how}`, { cookie: token });
        await waitFor(() => gate.reached);
        await app.mend(token);
        gate.open();
        const reply = await late;
        expect([how, reply.status, reply.body]).toEqual([how, 503, UNAVAILABLE]);
        expect(setsCookie(reply)).toBe(false);
        await untilLive(app);
        expect((await app.send('/required', { cookie: token })).body).toMatchObject({ name: 'Ada' });
      }
      expect(await app.registry.getUserSessions('ada')).toMatchObject([{ id }]);
      expect(await app.registry.count()).toBe(1);
    },
  );

  it("'stale': what one look was content with, a stricter one of the same request is not", async () => {
    const app = await startRig(platform, { onStoreUnavailable: 'stale' }, [
      AppController,
      TwoLooksController,
    ]);
    const { token } = await app.sessions.create({ name: 'Ada' });
    await app.cut();
    seen.length = 0;
    expect((await app.send('/twice', { cookie: token })).body).toMatchObject({ source: 'stale' });
    expect((await app.send('/twice-strictly', { cookie: token })).body).toEqual(UNAVAILABLE);
    expect(seen).toEqual(['Ada', 'Ada']);
  });

  it("'stale' for one route: only that one reads on", async () => {
    const app = await startRig(platform, {}, [AppController, StaleController]);
    const { token } = await app.sessions.create({ name: 'Ada' });
    await app.cut();
    expect((await app.send('/stale', { cookie: token })).body).toMatchObject({
      source: 'stale',
      name: 'Ada',
    });
    expect((await app.send('/not', { cookie: token })).body).toEqual(UNAVAILABLE);
    expect((await app.send('/required', { cookie: token })).body).toEqual(UNAVAILABLE);
  });
});

describe('attachSession, the store cannot be asked', () => {
  const FIELD_WRITES: Record<string, (session: FieldSession) => Promise<unknown>> = {
    set: (session) => session.set('views', 1),
    del: (session) => session.del('name'),
    delAll: (session) => session.delAll(),
    destroy: (session) => session.destroy(),
  };
  async function start(options: SessionModuleOptions) {
    const store = new WrappedStore({ exclusive: true });
    const server = await PlainServer.start('memory', { store, ...options });
    const client = server.client();
    await server.run(client, async (session, response) => {
      await session.set('name', 'Ada');
      response.end();
    });
    const token = client.value();
    return { store, server, client, token };
  }
  const refusesWrites = async ({ store, server, client, token }: Awaited<ReturnType<typeof start>>) => {
    for (const [how, write] of Object.entries(FIELD_WRITES)) {
      const { status, body, cookies } = await server.run(client, async (session, response) => {
        const code = await write(session).then(
          () => 'done',
          (error: { code: string }) => error.code,
        );
        response.end(JSON.stringify({ code }));
      });
      expect([how, status, body, cookies]).toEqual([how, 200, { code: 'SESSION_STORE_UNAVAILABLE' }, []]);
      const unheard = await server.run(client, (session, response) => {
        void write(session);
        response.end('done');
      });
      expect([how, unheard.status, unheard.cookies]).toEqual([how, 503, []]);
    }
    store.down = false;
    expect(await server.stored(token)).toEqual({ name: 'Ada' });
    expect(await store.length()).toBe(1);
  };

  it("'anonymous': nothing to read, and every write is refused", async () => {
    const rig = await start({ onStoreUnavailable: 'anonymous', cache: false });
    rig.store.down = true;
    expect(await rig.server.value(rig.client, (session) => session.getAll())).toEqual({});
    await refusesWrites(rig);
  });

  it("'stale': the copy is read, and every write is refused", async () => {
    const rig = await start({ onStoreUnavailable: 'stale', cache: { maxAge: '1s' } });
    rig.store.down = true;
    const { get } = rig.store.calls;
    await waitFor(async () => {
      expect(await rig.server.value(rig.client, (session) => session.get('name'))).toBe('Ada');
      return rig.store.calls.get > get; // it was asked for, in vain
    });
    await refusesWrites(rig);
  });
});

describe('boot', () => {
  const boot = async (session: SessionModuleOptions, controllers: (typeof StaleController)[] = []) => {
    const app = await createApp('express', { session, controllers });
    await app.init();
  };
  const refused = (option: string, why: RegExp) => ({
    option,
    message: expect.stringMatching(why) as string,
  });

  it("refuses 'stale' where there are no copies, for a route too, and staleFor where nobody wants stale ones", async () => {
    await expect(boot({ onStoreUnavailable: 'stale', cache: false })).rejects.toMatchObject(
      refused('onStoreUnavailable', /'stale'.*cache: false.*Drop/),
    );
    await expect(boot({ cache: false }, [StaleController])).rejects.toMatchObject(
      refused('onStoreUnavailable', /StaleController\.stale.*cache: false.*Drop/),
    );
    const store = new WrappedStore();
    await expect(boot({ onStoreUnavailable: 'stale', store })).rejects.toMatchObject(
      refused('onStoreUnavailable', /WrappedStore.*Choose/),
    );
    await expect(boot({ staleFor: '10s' })).rejects.toMatchObject(refused('staleFor', /no effect.*drop/));
    await expect(boot({ staleFor: '10s' }, [StaleController])).resolves.toBeUndefined();
    await expect(boot({ onStoreUnavailable: 'anonymous', cache: false })).resolves.toBeUndefined();
  });

  it('refuses values that are none, in options and in decorators', async () => {
    await expect(boot({ onStoreUnavailable: 'open' as never })).rejects.toMatchObject(
      refused('onStoreUnavailable', /'deny', 'anonymous' or 'stale'; got "open"/),
    );
    for (const staleFor of ['0', '500ms', '11m', 'soon'])
      await expect(boot({ onStoreUnavailable: 'stale', staleFor })).rejects.toMatchObject({
        option: 'staleFor',
      });
    expect(() => OnStoreUnavailable('open' as never)).toThrow(/@OnStoreUnavailable\(\).*got 'open'/);
  });
});

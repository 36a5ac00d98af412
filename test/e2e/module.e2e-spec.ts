import 'reflect-metadata';
import { randomBytes } from 'node:crypto';
import { Controller, Get, Injectable, Module, UseGuards, type DynamicModule } from '@nestjs/common';
import { Redis } from 'ioredis';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  ActiveSession,
  InjectSessionStore,
  MemorySessionStore,
  RedisSubscriber,
  Session,
  SessionGuard,
  SessionModule,
  SessionOptionsError,
  SessionService,
  SessionStore,
  type ResolvedSessionOptions,
  type SessionModuleOptions,
  type SessionOptionsFactory,
} from '../../lib/index.js';
import { SESSION_OPTIONS } from '../../lib/session.constants.js';
import { testRedisUrl } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { createApp, PLATFORMS, startApp, type Data, type TestApp } from './support/test-app.js';
import { connectionsOf, onRedis, openClient, untilLive } from './support/test-redis.js';
import { WrappedStore } from './support/wrapped-store.js';

@Controller('me')
@UseGuards(SessionGuard)
class MeController {
  @Get()
  whole(@Session() session: ActiveSession<Data>) {
    return { id: session.id, name: session.data.name, source: session.source };
  }
}

/** Configuration as an app has it: a provider of some module. */
@Injectable()
class Config implements SessionOptionsFactory {
  readonly cookieName = 'configured';
  createSessionOptions(): SessionModuleOptions {
    return { cookie: { name: this.cookieName } };
  }
}

@Module({ providers: [Config], exports: [Config] })
class ConfigModule {}

const optionsOf = ({ app }: TestApp) => app.get<ResolvedSessionOptions>(SESSION_OPTIONS, { strict: false });
const newInstanceId = () => `e2e-${randomBytes(6).toString('hex')}`;

describe.each(PLATFORMS)('SessionModule over %s', (platform) => {
  const start = (session: SessionModuleOptions | null, imports: DynamicModule[] = []) =>
    startApp(platform, { session, imports, controllers: [MeController] });
  const works = async (app: TestApp, cookieName?: string) => {
    const { token, id } = await app.sessions.create({ name: 'Ada' }, { userId: 'ada' });
    const carried =
      cookieName === undefined ? { bearer: token } : { headers: { cookie: `${cookieName}=${token}` } };
    const reply = await app.send('/me', carried);
    expect(reply.body).toMatchObject({ id, name: 'Ada' });
    expect((await app.send('/me')).status).toBe(401);
    return token;
  };

  describe('forRoot', () => {
    it('without options keeps sessions in memory', async () => {
      const app = await start(null, [SessionModule.forRoot()]);
      await works(app);
      expect(app.app.get(SESSION_OPTIONS, { strict: false })).toMatchObject({
        keyPrefix: 'sk:',
        idleTimeout: 30 * 60_000,
        absoluteTimeout: 14 * 86_400_000,
        touchInterval: 60_000,
        partitions: 16,
        cookie: { name: 'sid', secure: false, sameSite: 'lax', httpOnly: true, path: '/' },
        csrf: { strict: false, allowedOrigins: [] },
      });
    });

    it('with options uses them', async () => {
      const app = await start({ cookie: { name: 'mine' }, idleTimeout: '1h', absoluteTimeout: '2h' });
      await works(app, 'mine');
      expect(optionsOf(app)).toMatchObject({ idleTimeout: 3_600_000, absoluteTimeout: 7_200_000 });
    });

    it('takes undefined, as unset environment variables give it, for absent', async () => {
      const unset: undefined = undefined;
      const app = await start({
        redis: unset,
        subscriber: unset,
        store: unset,
        keyPrefix: unset,
        idleTimeout: unset,
        absoluteTimeout: unset,
        touchInterval: unset,
        partitions: unset,
        instanceId: unset,
        allowGivenTokens: unset,
        maxDataBytes: unset,
        commandTimeout: unset,
        dataClass: unset,
        waitForReplicas: unset,
        cache: {
          maxEntries: unset,
          ttlRatio: unset,
          maxAge: unset,
          clearCron: unset,
          idleCheckInterval: unset,
          idleCheckPerCount: unset,
          reportInterval: unset,
          type: unset,
          directory: unset,
          encoder: unset,
          decoder: unset,
        },
        coherence: { leaseMs: unset, heartbeatMs: unset },
        transport: unset,
        cookie: {
          name: unset,
          secure: unset,
          sameSite: unset,
          httpOnly: unset,
          path: unset,
          domain: unset,
          maxAge: unset,
          partitioned: unset,
          secrets: unset,
        },
        csrf: unset,
        events: { message: unset, cacheWrite: unset, cacheClear: unset },
      });
      await works(app);
      const { cookie, csrf } = optionsOf(await start({}));
      expect(optionsOf(app)).toMatchObject({ idleTimeout: 30 * 60_000, cookie, csrf });
      expect(cookie.name).toBe('sid');
    });

    it('freezes what it made of the options, and leaves alone what the user passed', async () => {
      const passed: SessionModuleOptions = {
        cookie: { name: 'sid' },
        transport: [{ header: 'x-a' }, 'cookie'],
        cache: { maxEntries: 5 },
        events: {},
      };
      const app = await start(passed);
      const resolved = optionsOf(app);
      for (const part of [
        resolved,
        resolved.cache,
        resolved.cookie,
        resolved.events,
        resolved.transport,
        resolved.transport[0],
      ])
        expect(Object.isFrozen(part)).toBe(true);
      for (const part of [passed, passed.cookie, passed.transport, passed.cache, passed.events])
        expect(Object.isFrozen(part)).toBe(false);
      // What the app does with its own object later changes nothing.
      passed.cookie!.name = 'other';
      await works(app, 'sid');
    });
  });

  describe('forRootAsync', () => {
    it('useFactory, with what it injects from what it imports', async () => {
      const app = await start(null, [
        SessionModule.forRootAsync({
          imports: [ConfigModule],
          inject: [Config],
          useFactory: async (config: Config) => ({ cookie: { name: config.cookieName } }),
        }),
      ]);
      await works(app, 'configured');
    });

    it('useFactory without anything', async () => {
      await works(await start(null, [SessionModule.forRootAsync({ useFactory: () => ({}) })]));
    });

    it('useClass', async () => {
      await works(await start(null, [SessionModule.forRootAsync({ useClass: Config })]), 'configured');
    });

    it('useExisting', async () => {
      const async = { imports: [ConfigModule], useExisting: Config };
      await works(await start(null, [SessionModule.forRootAsync(async)]), 'configured');
    });

    it('isGlobal: false keeps the providers to those who import it', async () => {
      const sessionModule = SessionModule.forRootAsync({ isGlobal: false, useFactory: () => ({}) });
      @Module({ imports: [sessionModule], controllers: [MeController] })
      class FeatureModule {}
      await works(await startApp(platform, { session: null, imports: [FeatureModule] }));

      @Module({ controllers: [MeController] })
      class ForgetfulModule {}
      await expect(
        startApp(platform, { session: null, imports: [sessionModule, ForgetfulModule] }),
      ).rejects.toThrow(/Session(Parameter)?Guard[\s\S]*ForgetfulModule/);
    });
  });

  describe('stops the boot', () => {
    const ways: [string, (options: SessionModuleOptions) => DynamicModule][] = [
      ['forRoot', (options) => SessionModule.forRoot(options)],
      ['forRootAsync', (options) => SessionModule.forRootAsync({ useFactory: async () => options })],
    ];
    const wrong: [string, () => unknown, RegExp][] = [
      ['idleTimeout', () => ({ idleTimeout: 30 }), /'30s' or '30ms'/],
      ['idleTimeOut', () => ({ idleTimeOut: '1h' }), /Did you mean "idleTimeout"/],
      ['cache.maxEntires', () => ({ cache: { maxEntires: 3 } }), /Did you mean "cache.maxEntries"/],
      ['redis', () => ({ redis: '' }), /must be a URL/],
      ['redis', () => ({ redis: 'http://localhost' }), /must be a URL/],
      ['store', () => ({ store: {} }), /Extend the class SessionStore/],
      ['store', () => ({ store: new MemorySessionStore(), redis: testRedisUrl() }), /exclude each other/],
      ['subscriber', () => ({ subscriber: testRedisUrl() }), /needs "redis"/],
      ['transport', () => ({ transport: 'query' }), /got "query"/],
    ];

    describe.each(ways)('through %s', (_way, moduleOf) => {
      it.each(wrong)('for a wrong "%s"', async (option, options, message) => {
        const error = await failure(
          createApp(platform, { session: null, imports: [moduleOf(options() as SessionModuleOptions)] }),
        );
        expect(error).toBeInstanceOf(SessionOptionsError);
        expect(error).toMatchObject({ option, code: 'SESSION_OPTIONS' });
        expect((error as Error).message).toMatch(message);
      });

      it.each([
        ['a cluster without a port', () => ({ cluster: [{ host: 'a' }] }), /cluster/],
        ['a client of a replica', () => replicaClient(), /must be 'master'/],
        ['options that name no master', () => ({ sentinels: [{ host: 'a' }] }), /know the master/],
        ['options of a replica', () => ({ ...SENTINELS, role: 'slave' }), /must be 'master'/],
      ])('for %s as redis or subscriber, saying why', async (_what, make, reason) => {
        for (const option of ['redis', 'subscriber'] as const) {
          const value = make();
          const options = { redis: testRedisUrl(), [option]: value } as SessionModuleOptions;
          const error = await failure(createApp(platform, { session: null, imports: [moduleOf(options)] }));
          expect(error).toMatchObject({ name: 'SessionOptionsError' });
          expect((error as SessionOptionsError).option.split('.')[0]).toBe(option);
          expect((error as Error).message).toMatch(reason);
          if (value instanceof Redis) value.disconnect();
        }
      });

      it('after which nothing is open: not even what had been opened when the mistake was found', async () => {
        const { redis, keyPrefix } = onRedis();
        const client = openClient();
        await start({ redis, keyPrefix, partitions: 16 });
        const instanceId = newInstanceId();
        const app = await createApp(platform, {
          session: null,
          imports: [moduleOf({ redis, keyPrefix, instanceId, partitions: 8 })],
        });
        const error = await failure(app.listen(0));
        expect(error).toMatchObject({ name: 'SessionOptionsError', option: 'partitions' });
        await waitFor(async () => (await connectionsOf(client, instanceId)).length === 0);
      });

      it('the error never shows a password', async () => {
        const options = { redis: 'redi://user:hunter2@localhost' };
        const error = await failure(createApp(platform, { session: null, imports: [moduleOf(options)] }));
        expect((error as Error).message).not.toContain('hunter2');
      });
    });

    it('when a factory rejects, with its own error', async () => {
      const useFactory = async () => Promise.reject(new RangeError('no configuration'));
      const imports = [SessionModule.forRootAsync({ useFactory })];
      const error = await failure(createApp(platform, { session: null, imports }));
      expect(error).toBeInstanceOf(RangeError);
    });

    it('when a store of the user cannot open, which is then closed, once', async () => {
      class Unopenable extends WrappedStore {
        override async open(): Promise<void> {
          throw new RangeError('no disk');
        }
      }
      const store = new Unopenable();
      const app = await createApp(platform, { session: { store } });
      expect(await failure(app.listen(0))).toBeInstanceOf(RangeError);
      await app.close();
      expect(store.calls.close).toBe(1);
    });
  });

  describe('store', () => {
    it('is injected by InjectSessionStore()', async () => {
      @Injectable()
      class Auditor {
        constructor(@InjectSessionStore() readonly store: SessionStore) {}
      }
      const store = new MemorySessionStore();
      const app = await startApp(platform, { session: { store }, providers: [Auditor] });
      expect(app.app.get(Auditor).store).toBe(store);
      await app.sessions.create({ name: 'Ada' });
      expect(await app.app.get(Auditor).store.length()).toBe(1);
    });

    it('a MemorySessionStore with maxSessions ends the least recently used one, warning once', async () => {
      const app = await start({ store: new MemorySessionStore({ maxSessions: 2 }), cache: false });
      const [first, second] = [await app.sessions.create(), await app.sessions.create()];
      // A use of the first makes the second the least recently used.
      expect((await app.send('/me', { bearer: first.token })).status).toBe(200);
      const third = await app.sessions.create();
      const fourth = await app.sessions.create();
      const statuses = await Promise.all(
        [first, second, third, fourth].map(
          async ({ token }) => (await app.send('/me', { bearer: token })).status,
        ),
      );
      expect(statuses).toEqual([401, 401, 200, 200]);
      expect(app.logs.matching(/^warn.*maxSessions of 2/)).toHaveLength(1);
    });

    it('a MemorySessionStore with maxSessions does so with the near cache on, as by default', async () => {
      const app = await start({ store: new MemorySessionStore({ maxSessions: 2 }) });
      const first = await app.sessions.create();
      await app.sessions.create();
      await app.sessions.create();
      // Ended sessions are refused, whatever copies there are.
      expect((await app.send('/me', { bearer: first.token })).status).toBe(401);
    });

    it('a MemorySessionStore tells the near caches of every app that shares it what was changed or ended in it', async () => {
      const store = new MemorySessionStore();
      const [one, other] = [await start({ store }), await start({ store })];
      const { token } = await one.sessions.create({ name: 'Ada' });
      expect((await other.send('/me', { bearer: token })).body).toMatchObject({ name: 'Ada' });
      await one.sessions.update(token, { name: 'Grace' });
      expect((await other.send('/me', { bearer: token })).body).toMatchObject({ name: 'Grace' });
      await store.clear();
      for (const app of [one, other]) expect((await app.send('/me', { bearer: token })).status).toBe(401);
    });

    it('a foreign store announces nothing, so the near cache is off and every read is from the store', async () => {
      const store = new WrappedStore();
      const app = await start({ store });
      const { token } = await app.sessions.create({ name: 'Ada' });
      for (let i = 0; i < 3; i++)
        expect((await app.send('/me', { bearer: token })).body).toMatchObject({ source: 'store' });
      expect(store.calls.get).toBe(3);
      expect(app.cache.stats()).toMatchObject({ entries: 0, hits: 0, writes: 0 });
      expect(app.app.get(RedisSubscriber).state).toBe('off');
    });

    it('is opened once, and closed once however often the app is', async () => {
      const store = new WrappedStore();
      const app = await start({ store });
      expect(store.calls).toMatchObject({ open: 1, close: 0 });
      await Promise.all([app.close(), app.close()]);
      await app.close();
      expect(store.calls).toMatchObject({ open: 1, close: 1 });
    });

    it('cache: false reads the store every time', async () => {
      const store = new WrappedStore({ exclusive: true });
      const app = await start({ store, cache: false });
      const { token } = await app.sessions.create({ name: 'Ada' });
      await app.send('/me', { bearer: token });
      await app.send('/me', { bearer: token });
      expect(store.calls.get).toBe(2);
    });
  });

  describe('redis', () => {
    const forms: [string, () => NonNullable<SessionModuleOptions['redis']>][] = [
      ['a URL', () => testRedisUrl()],
      ['an options object', () => connectionOptions()],
      ['a client', () => openClient()],
      ['a client that is not connected yet', () => lazyClient()],
    ];

    it.each(forms)('as %s', async (_form, make) => {
      const { keyPrefix } = onRedis();
      const app = await start({ redis: make(), keyPrefix });
      await untilLive(app);
      const token = await works(app);
      expect((await app.send('/me', { bearer: token })).body).toMatchObject({ source: 'cache' });
      expect(await app.registry.getUserSessions('ada')).toHaveLength(1);
    });

    it.each(forms)('subscriber as %s', async (_form, make) => {
      const { redis, keyPrefix } = onRedis();
      const app = await start({ redis, subscriber: make(), keyPrefix });
      await untilLive(app);
      await works(app);
    });

    it('a client of the user is neither used for subscribing, nor renamed, nor closed', async () => {
      const { keyPrefix } = onRedis();
      const client = openClient();
      const instanceId = newInstanceId();
      const app = await start({ redis: client, keyPrefix, instanceId });
      await untilLive(app);
      await works(app);
      expect(await connectionsOf(client, instanceId)).toEqual([
        `sessionkit-sub:${instanceId}`,
        `sessionkit:${instanceId}`,
      ]);
      expect(client.mode).toBe('normal');
      const listeners = client.eventNames().map((name) => [name, client.listenerCount(name)]);
      await app.close();
      await waitFor(async () => (await connectionsOf(client, instanceId)).length === 0);
      expect(client.status).toBe('ready');
      expect(await client.ping()).toBe('PONG');
      expect(client.eventNames().map((name) => [name, client.listenerCount(name)])).toEqual(listeners);
    });

    it('the keyPrefix of a client of the user does not come on top of ours', async () => {
      const { keyPrefix } = onRedis();
      const client = new Redis(testRedisUrl(), { keyPrefix: 'theirs:' });
      onTestFinished(() => client.disconnect());
      const app = await start({ redis: client, keyPrefix });
      await works(app);
      const plain = openClient();
      expect(await plain.exists(`${keyPrefix}layout`)).toBe(1);
      expect(await plain.exists(`theirs:${keyPrefix}layout`)).toBe(0);
    });

    it('the same client as redis and as subscriber gets a warning, and works', async () => {
      const { keyPrefix } = onRedis();
      const client = openClient();
      const app = await start({ redis: client, subscriber: client, keyPrefix });
      await untilLive(app);
      await works(app);
      expect(app.logs.matching(/^warn.*"redis" and "subscriber" are the same client/)).toHaveLength(1);
    });

    it('two clients, or a URL twice, get none', async () => {
      const { redis, keyPrefix } = onRedis();
      const clients = await start({ redis: openClient(), subscriber: openClient(), keyPrefix });
      const urls = await start({ redis, subscriber: redis, keyPrefix });
      for (const app of [clients, urls]) expect(app.logs.matching(/same client/)).toEqual([]);
    });

    it('cache: false opens no subscriber connection', async () => {
      const { redis, keyPrefix } = onRedis();
      const instanceId = newInstanceId();
      const app = await start({ redis, keyPrefix, instanceId, cache: false });
      await works(app);
      expect(await connectionsOf(openClient(), instanceId)).toEqual([`sessionkit:${instanceId}`]);
      expect(app.app.get(RedisSubscriber).state).toBe('off');
    });

    it.each<[string, (redis: string, note: (payload: unknown) => void) => SessionModuleOptions]>([
      ['events.message', (_redis, message) => ({ events: { message } })],
      ['subscriber', (redis) => ({ subscriber: redis })],
    ])('cache: false with %s opens one, message fires, and nothing is kept', async (_option, more) => {
      const { redis, keyPrefix } = onRedis();
      const instanceId = newInstanceId();
      const seen: unknown[] = [];
      const note = (payload: unknown) => void seen.push(payload);
      const app = await start({ redis, keyPrefix, instanceId, cache: false, ...more(redis, note) });
      if (_option === 'subscriber') app.events.on('message', note);
      const other = await start({ redis, keyPrefix, instanceId: 'other' });
      await untilLive(app);
      expect(await connectionsOf(openClient(), instanceId)).toEqual([
        `sessionkit-sub:${instanceId}`,
        `sessionkit:${instanceId}`,
      ]);
      const { id, token } = await other.sessions.create({ name: 'Ada' });
      await other.sessions.update(token, { views: 1 });
      await app.sessions.update(token, { views: 2 }); // its own changes are no news
      await other.sessions.destroy(token);
      await waitFor(() => seen.length >= 2);
      expect(seen).toEqual([
        { operation: 'update', id, origin: 'other' },
        { operation: 'destroy', id, origin: 'other' },
      ]);
      expect(app.cache.stats()).toMatchObject({ entries: 0, writes: 0, refusedFills: 0 });
      await app.close();
      await waitFor(async () => (await connectionsOf(openClient(), instanceId)).length === 0);
    });

    it('imported twice in one app warns once, with the fix; imported once does not', async () => {
      const twice = await start({}, [SessionModule.forRoot({ idleTimeout: '1h' })]);
      expect(twice.logs.matching(/^warn.*imported 2 times.*Call forRoot\(\)/)).toHaveLength(1);
      const once = await start({});
      expect(once.logs.matching(/imported \d+ times/)).toEqual([]);
    });

    it('two SessionModules of one process, each with its prefix, keep out of each other', async () => {
      const [one, other] = [await start(onRedis()), await start(onRedis())];
      const token = await works(one);
      expect((await other.send('/me', { bearer: token })).status).toBe(401);
    });
  });

  describe('warns of the memory store', () => {
    /** Without a word about it, an app in production that neither speaks TLS nor trusts a proxy does not start. */
    const BEHIND_TLS: SessionModuleOptions = { cookie: { secure: true } };

    it.each([
      ['production', 1],
      ['development', 0],
    ])('under NODE_ENV=%s: %d time(s)', async (environment, times) => {
      vi.stubEnv('NODE_ENV', environment);
      onTestFinished(() => {
        vi.unstubAllEnvs();
      });
      const app = await start(BEHIND_TLS);
      expect(app.logs.matching(/^warn.*memory of this process/)).toHaveLength(times);
    });

    it('not in production on Redis', async () => {
      vi.stubEnv('NODE_ENV', 'production');
      onTestFinished(() => {
        vi.unstubAllEnvs();
      });
      const app = await start({ ...onRedis(), ...BEHIND_TLS });
      expect(app.logs.matching(/memory of this process/)).toEqual([]);
    });
  });

  describe('events', () => {
    it('calls message, cacheWrite and cacheClear, with ids and never a token', async () => {
      const place = onRedis();
      const seen: [string, unknown][] = [];
      const app = await start({
        ...place,
        events: {
          message: (payload) => seen.push(['message', payload]),
          cacheWrite: (payload) => seen.push(['cacheWrite', payload]),
          cacheClear: (payload) => seen.push(['cacheClear', payload]),
        },
      });
      const other = await start({ ...place, instanceId: 'other' });
      await Promise.all([untilLive(app), untilLive(other)]);

      const { token, id } = await app.sessions.create({ name: 'Ada' });
      await other.sessions.update(token, { views: 1 });
      await waitFor(() => seen.length === 2);
      await app.send('/me', { bearer: token });
      expect(app.cache.clear()).toBe(1);
      await other.sessions.destroy(token);
      await waitFor(() => seen.length === 5);
      expect(seen).toEqual([
        ['cacheWrite', { id }],
        ['message', { operation: 'update', id, origin: 'other' }],
        ['cacheWrite', { id }],
        ['cacheClear', { size: 1 }],
        ['message', { operation: 'destroy', id, origin: 'other' }],
      ]);
      expect(JSON.stringify(seen)).not.toContain(token);
    });

    it.each<[string, () => void]>([
      [
        'throws',
        () => {
          throw new Error('listener broke');
        },
      ],
      [
        'rejects',
        async () => {
          throw new Error('listener broke');
        },
      ],
    ])('a listener that %s breaks no request, and is reported', async (_how, listener) => {
      const app = await start({ events: { cacheWrite: listener, cacheClear: listener } });
      await works(app);
      app.cache.clear();
      await works(app);
      await waitFor(() => app.logs.matching(/^error.*listener of the session event "cacheWrite"/).length > 0);
      await waitFor(() => app.logs.matching(/^error.*listener of the session event "cacheClear"/).length > 0);
    });

    it('the emitter has more of them, for providers', async () => {
      const app = await start({});
      const seen: unknown[] = [];
      app.events.on('created', (payload) => seen.push(['created', payload.userId]));
      app.events.on('destroyed', (payload) => seen.push(['destroyed', payload.reason]));
      app.events.on('regenerated', (payload) => seen.push(['regenerated', payload.userId]));
      const session = await app.sessions.create({ name: 'Ada' });
      await session.regenerate({ userId: 'ada' });
      await session.destroy();
      expect(seen).toEqual([
        ['created', null],
        ['regenerated', 'ada'],
        ['destroyed', 'destroyed'],
      ]);
    });
  });

  describe('close', () => {
    it('finishes the writes that have begun, then ends every connection; twice is harmless', async () => {
      const { redis, keyPrefix } = onRedis();
      const client = openClient();
      const instanceId = newInstanceId();
      const app = await start({ redis, keyPrefix, instanceId });
      const { token } = await app.sessions.create({ name: 'Ada', views: 0 });
      const increments = Array.from({ length: 20 }, () =>
        app.sessions.update(token, (data) => {
          data.views = (data.views ?? 0) + 1;
        }),
      );
      await app.close();
      await Promise.all(increments);
      await app.close();
      await waitFor(async () => (await connectionsOf(client, instanceId)).length === 0);
      const next = await start({ redis, keyPrefix });
      expect((await next.sessions.get(token))?.data).toEqual({ name: 'Ada', views: 20 });
    });

    it('before listen is harmless too', async () => {
      const app = await createApp(platform, { session: onRedis() });
      await app.close();
    });

    it('a use of the services after it is refused like an outage', async () => {
      const app = await start(onRedis());
      const service = app.app.get(SessionService);
      const { token } = await service.create();
      await app.close();
      await expect(service.get(token)).rejects.toMatchObject({ code: 'SESSION_STORE_UNAVAILABLE' });
    });
  });
});

async function failure(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('expected the boot to stop');
}

function connectionOptions() {
  const { hostname, port, password, username } = new URL(testRedisUrl());
  return {
    host: hostname,
    port: Number(port || 6379),
    ...(password && { password: decodeURIComponent(password) }),
    ...(username && { username: decodeURIComponent(username) }),
  };
}

function lazyClient(): Redis {
  const client = new Redis(testRedisUrl(), { lazyConnect: true });
  onTestFinished(() => client.disconnect());
  return client;
}

const SENTINELS = { sentinels: [{ host: '127.0.0.1', port: 1 }], name: 'mymaster' };

function replicaClient(): Redis {
  return new Redis({ ...SENTINELS, role: 'slave', lazyConnect: true });
}

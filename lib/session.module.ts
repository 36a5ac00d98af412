import {
  Inject,
  Logger,
  Module,
  type DynamicModule,
  type OnApplicationShutdown,
  type OnModuleInit,
} from '@nestjs/common';
import { APP_GUARD, HttpAdapterHost, ModuleRef, ModulesContainer, Reflector } from '@nestjs/core';
import { CacheScheduler } from './cache/cache.scheduler.js';
import { CacheService } from './cache/cache.service.js';
import { FileCache } from './cache/file-cache.js';
import { SYSTEM_CLOCK } from './core/clock.js';
import { dataCodecOf } from './core/custom-codec.js';
import { FieldStore } from './core/field-store.js';
import { RecordData } from './core/record-data.js';
import { SessionEngine } from './core/session-engine.js';
import { SessionSweeper } from './core/session.sweeper.js';
import { SessionRegistry } from './core/session.registry.js';
import { SessionService } from './core/session.service.js';
import type { SessionStore } from './core/session-store.js';
import { SessionEvents, type SessionEventMap } from './events/session-events.js';
import { SessionGuard } from './http/session.guard.js';
import { CsrfGuard } from './http/csrf.guard.js';
import { ExpressViewGuard } from './http/express-view.guard.js';
import { attachExpressViews } from './http/express-view.middleware.js';
import { handlersWithForeignSession, markedWith } from './http/foreign-decorator.js';
import { HttpSessionService } from './http/http-session.service.js';
import { HttpSessions } from './http/http-sessions.js';
import { prepareResponses } from './http/gated-prototype.js';
import { SessionParameterGuard } from './http/session-parameter.js';
import { checkTls } from './http/tls-check.js';
import { createTransports } from './http/token-transport.js';
import { ViewRules } from './http/view-rules.js';
import { SessionOptionsError } from './errors/caller.errors.js';
import { namesCluster } from './options/option-checks.js';
import { resolveSessionOptions } from './options/resolve-session-options.js';
import type { ResolvedSessionOptions } from './options/session-options.interface.js';
import { RedisSubscriber } from './pubsub/redis.subscriber.js';
import { DEFAULTS } from './options/session-options.defaults.js';
import { SESSION_ON_UNAVAILABLE, SESSION_OPTIONS, SESSION_STORE } from './session.constants.js';
import {
  ConfigurableModuleClass,
  MODULE_OPTIONS_TOKEN,
  type ASYNC_OPTIONS_TYPE,
  type OPTIONS_TYPE,
} from './session.module-definition.js';
import { MemorySessionStore } from './store/memory-session.store.js';
import { openOwnClient, openOwnCluster, type ClusterDirectory } from './store/redis-client.js';
import { RedisConnection } from './store/redis-connection.js';
import { RedisSessionStore } from './store/redis-session.store.js';

/**
 * Server-side sessions. Import it once, in the root module:
 *
 * ```ts
 * @Module({ imports: [SessionModule.forRoot({ redis: process.env.REDIS_URL })] })
 * ```
 *
 * Provides `SessionService`, `SessionRegistry`, `CacheService`, `RedisSubscriber`, `SessionEvents` and `SessionGuard`.
 *
 * @publicApi
 */
@Module({
  providers: [
    { provide: SESSION_OPTIONS, useFactory: resolveSessionOptions, inject: [MODULE_OPTIONS_TOKEN] },
    { provide: SessionEvents, useFactory: createEvents, inject: [SESSION_OPTIONS] },
    { provide: SESSION_STORE, useFactory: createStore, inject: [SESSION_OPTIONS, SessionEvents] },
    {
      provide: RedisSubscriber,
      useFactory: createSubscriber,
      inject: [SESSION_OPTIONS, SESSION_STORE, SessionEvents],
    },
    {
      provide: CacheService,
      useFactory: (options: ResolvedSessionOptions, subscriber: RedisSubscriber, events: SessionEvents) =>
        new CacheService(options.cache, subscriber, events, SYSTEM_CLOCK, createFileCache(options, events)),
      inject: [SESSION_OPTIONS, RedisSubscriber, SessionEvents],
    },
    {
      provide: CacheScheduler,
      useFactory: ({ cache }: ResolvedSessionOptions, service: CacheService, moduleRef: ModuleRef) =>
        new CacheScheduler(cache, service, moduleRef),
      inject: [SESSION_OPTIONS, CacheService, ModuleRef],
    },
    {
      provide: SessionEngine,
      useFactory: (
        store: SessionStore,
        cache: CacheService,
        events: SessionEvents,
        options: ResolvedSessionOptions,
      ) =>
        new SessionEngine(
          store,
          cache,
          events,
          options,
          new RecordData(dataCodecOf(options.codec), options),
          SYSTEM_CLOCK,
        ),
      inject: [SESSION_STORE, CacheService, SessionEvents, SESSION_OPTIONS],
    },
    {
      provide: SessionService,
      useFactory: (engine: SessionEngine, options: ResolvedSessionOptions) =>
        new SessionService(engine, options),
      inject: [SessionEngine, SESSION_OPTIONS],
    },
    {
      provide: FieldStore,
      useFactory: (sessions: SessionService) => new FieldStore(sessions),
      inject: [SessionService],
    },
    {
      provide: SessionRegistry,
      useFactory: (engine: SessionEngine, options: ResolvedSessionOptions) =>
        new SessionRegistry(engine, options),
      inject: [SessionEngine, SESSION_OPTIONS],
    },
    {
      provide: SessionSweeper,
      useFactory: (store: SessionStore, events: SessionEvents, { sweepIntervalMs }: ResolvedSessionOptions) =>
        new SessionSweeper(store, events, sweepIntervalMs),
      inject: [SESSION_STORE, SessionEvents, SESSION_OPTIONS],
    },
    {
      provide: HttpSessions,
      useFactory: createHttpSessions,
      inject: [SessionService, SESSION_OPTIONS, HttpAdapterHost],
    },
    {
      // A factory that returns nothing adds no guard, and costs no route anything.
      provide: APP_GUARD,
      useFactory: (
        { expressView, csrf }: ResolvedSessionOptions,
        http: HttpSessions,
        reflector: Reflector,
      ) => (expressView && csrf !== false ? new ExpressViewGuard(http, reflector) : undefined),
      inject: [SESSION_OPTIONS, HttpSessions, Reflector],
    },
    HttpSessionService,
    SessionGuard,
    CsrfGuard,
    SessionParameterGuard,
  ],
  exports: [
    SessionService,
    SessionRegistry,
    FieldStore,
    CacheService,
    RedisSubscriber,
    SessionEvents,
    HttpSessionService,
    SessionGuard,
    CsrfGuard,
    SESSION_STORE,
    SESSION_OPTIONS,
    HttpSessions,
    SessionParameterGuard,
  ],
})
export class SessionModule extends ConfigurableModuleClass implements OnModuleInit, OnApplicationShutdown {
  readonly #logger = new Logger(SessionModule.name);
  #closing: Promise<void> | undefined;
  #stopListening: (() => void) | undefined;

  constructor(
    @Inject(SESSION_OPTIONS) private readonly options: ResolvedSessionOptions,
    @Inject(SESSION_STORE) private readonly store: SessionStore,
    @Inject(RedisSubscriber) private readonly subscriber: RedisSubscriber,
    @Inject(CacheScheduler) private readonly scheduler: CacheScheduler,
    @Inject(SessionSweeper) private readonly sweeper: SessionSweeper,
    @Inject(SessionEngine) private readonly engine: SessionEngine,
    @Inject(SessionEvents) private readonly events: SessionEvents,
    @Inject(CacheService) private readonly cache: CacheService,
    @Inject(ModulesContainer) private readonly modules: ModulesContainer,
    @Inject(HttpAdapterHost) private readonly host: HttpAdapterHost,
    @Inject(HttpSessions) private readonly http: HttpSessions,
  ) {
    super();
  }

  /** With no options at all: the embedded memory store. */
  static override forRoot(options: typeof OPTIONS_TYPE = {}): DynamicModule {
    return super.forRoot(options);
  }

  static override forRootAsync(options: typeof ASYNC_OPTIONS_TYPE): DynamicModule {
    return super.forRootAsync(options);
  }

  /** Opens what must be open before the first request; if that fails, nothing is left open. */
  async onModuleInit(): Promise<void> {
    checkTls(this.host.httpAdapter, this.options);
    this.http.checkAttached();
    prepareResponses(this.host.httpAdapter);
    this.#checkCapabilities();
    this.#prepareStale();
    this.#warn();
    this.#stopListening = this.store.onChange((id, version) => this.cache.invalidate(id, version));
    try {
      await this.cache.open();
      await this.scheduler.start();
      await this.store.open();
      await this.subscriber.start();
      this.sweeper.start();
    } catch (error) {
      await this.#close();
      throw error;
    }
  }

  /** After the HTTP server has closed: lets writes finish, then stops every timer and connection of ours. */
  async onApplicationShutdown(): Promise<void> {
    await this.engine.idle();
    await this.#close();
  }

  /** Once, though Nest calls its hooks again for a second `app.close()`, and after a boot that failed. */
  #close(): Promise<void> {
    return (this.#closing ??= this.#closeAll());
  }

  async #closeAll(): Promise<void> {
    this.#stopListening?.();
    await this.scheduler.stop();
    await this.sweeper.stop();
    await this.subscriber.close();
    await this.store.close();
    await this.cache.close();
    this.events.removeAllListeners();
  }

  /** @throws {SessionOptionsError} for an option that the store cannot fulfil */
  #checkCapabilities(): void {
    const { options, store } = this;
    const needs = [
      ['maxSessionsPerUser', options.maxSessionsPerUser !== 0, 'index', 'finds the sessions of a user'],
      ['rotateEvery', options.rotateEveryMs !== 0, 'aliases', 'knows what became of a replaced token'],
    ] as const;
    for (const [option, isSet, capability, ability] of needs) {
      if (!isSet || store.capabilities[capability] === true) continue;
      throw new SessionOptionsError(
        option,
        `needs a store that ${ability}, and ${store.constructor.name} does not (capabilities.${capability}). Drop one of both.`,
      );
    }
  }

  /** @throws {SessionOptionsError} where stale copies are asked for and there are none */
  #prepareStale(): void {
    const { options, store } = this;
    const routes = markedWith(this.modules, SESSION_ON_UNAVAILABLE, 'stale');
    if (options.onStoreUnavailable !== 'stale' && routes.length === 0) {
      if (options.staleForMs === undefined) return;
      throw new SessionOptionsError(
        'staleFor',
        "has no effect: neither onStoreUnavailable nor a route's @OnStoreUnavailable() is 'stale'. Set one, or drop staleFor.",
      );
    }
    const [route] = routes;
    const asked = route === undefined ? "is 'stale'" : `is 'stale' for ${route}`;
    if (options.cache === false)
      throw new SessionOptionsError(
        'onStoreUnavailable',
        `${asked}, which serves copies of the near cache, and cache: false leaves none. Drop one of both.`,
      );
    if (!(store instanceof RedisSessionStore) && store.capabilities.exclusive !== true)
      throw new SessionOptionsError(
        'onStoreUnavailable',
        `${asked}, which serves copies of the near cache, and ${store.constructor.name} has none: it announces no changes ` +
          "(capabilities.exclusive). Choose 'deny' or 'anonymous'.",
      );
    this.cache.serveStale(options.staleForMs ?? DEFAULTS.staleFor);
  }

  #warn(): void {
    const { redis, subscriber } = this.options;
    const imports = [...this.modules.values()].filter(({ metatype }) => metatype === SessionModule);
    if (imports.length > 1 && (imports[0]?.instance as unknown) === this) {
      this.#logger.warn(
        `SessionModule is imported ${imports.length} times with different options: each import has its own store and cache, ` +
          'and one does not know the sessions of the other. Call forRoot() or forRootAsync() once, in the root module.',
      );
    }
    if (this.store instanceof MemorySessionStore && process.env.NODE_ENV === 'production') {
      this.#logger.warn(
        'Sessions are kept in the memory of this process: they are lost on restart and unknown to other processes. ' +
          'Set the option "redis", or "store", for production.',
      );
    }
    const { capabilities } = this.store;
    if (capabilities.versions !== true && capabilities.exclusive !== true) {
      this.#logger.warn(
        `${this.store.constructor.name} does not see what other processes changed since it read a session ` +
          '(capabilities.versions): parallel requests in two processes may lose writes, and a late one may bring back a ' +
          'session that has ended. In one process this is fine; for more, set the option "redis".',
      );
    }
    const { cookie, expressView } = this.options;
    const foreign = expressView ? [] : handlersWithForeignSession(this.modules);
    if (foreign.length > 0) {
      this.#logger.warn(
        `${foreign.join(', ')}: a parameter has the @Session() of @nestjs/common, which reads request.session. Import ` +
          "Session from 'nestjs-sessionkit', or set expressView: true; if another session middleware is meant, this is fine.",
      );
    }
    if (!cookie.secure && !cookie.decided && process.env.NODE_ENV === 'production') {
      this.#logger.warn(
        'cookie.secure is false: the session cookie crosses the network unencrypted, and whoever reads it is signed in. ' +
          'Serve the app over TLS and drop the option.',
      );
    }
    if (typeof redis === 'object' && redis === subscriber) {
      this.#logger.warn(
        'The options "redis" and "subscriber" are the same client. Each is copied into a connection of its own; drop "subscriber".',
      );
    }
  }
}

function createEvents({ events: callbacks }: ResolvedSessionOptions): SessionEvents {
  const logger = new Logger(SessionModule.name);
  const events = new SessionEvents((error, event) =>
    logger.error(
      `A listener of the session event "${event}" threw`,
      error instanceof Error ? error.stack : undefined,
    ),
  );
  for (const name of Object.keys(callbacks) as (keyof typeof callbacks)[]) {
    const callback = callbacks[name] as ((payload: SessionEventMap[typeof name]) => void) | undefined;
    if (callback !== undefined) events.on(name, callback);
  }
  return events;
}

function createStore(options: ResolvedSessionOptions, events: SessionEvents): SessionStore {
  const { redis, store, commandTimeoutMs, instanceId } = options;
  if (store !== undefined) return store;
  if (redis === undefined) return new MemorySessionStore();
  const name = (purpose: string): string => `sessionkit${purpose}:${instanceId}`;
  const timeoutMs = commandTimeoutMs * 2;
  return new RedisSessionStore(
    namesCluster(redis)
      ? {
          directory: () => openOwnCluster(redis, name(''), commandTimeoutMs),
          connectTo: (directory, node, purpose) => directory.connectTo(node, name(purpose), timeoutMs),
        }
      : (purpose) => openOwnClient(redis, name(purpose), timeoutMs),
    options,
    events,
  );
}

function createHttpSessions(
  sessions: SessionService<object>,
  options: ResolvedSessionOptions,
  host: HttpAdapterHost,
): HttpSessions {
  const rules = options.expressView ? new ViewRules(options) : null;
  const http = new HttpSessions(
    sessions,
    createTransports(options.transport, options.cookie),
    options,
    rules,
  );
  if (rules !== null) http.checkAttached = attachExpressViews(host, http, rules);
  return http;
}

function createFileCache(
  { cache, commandTimeoutMs }: ResolvedSessionOptions,
  events: SessionEvents,
): FileCache | null {
  if (cache === false || cache.files === null) return null;
  const { directory, encoder, decoder } = cache.files;
  return new FileCache(
    directory,
    encoder,
    decoder,
    (error) => events.emit('cacheError', error),
    commandTimeoutMs,
  );
}

function createSubscriber(
  options: ResolvedSessionOptions,
  store: SessionStore,
  events: SessionEvents,
): RedisSubscriber {
  const { cache, redis, subscriber, instanceId, coherence } = options;
  // Without a cache there is still somebody to tell where the app asked for it.
  const wanted = cache !== false || subscriber !== undefined || options.events.message !== undefined;
  if (!(store instanceof RedisSessionStore) || redis === undefined || !wanted) {
    return new RedisSubscriber(null, events, store.capabilities.exclusive === true);
  }
  const { connection, keys, topology } = store;
  const name = `sessionkit-sub:${instanceId}`;
  const source = subscriber ?? redis;
  if (connection instanceof RedisConnection) {
    if (namesCluster(source)) throw new Error('checked with the options');
    return new RedisSubscriber(
      {
        connect: () => openOwnClient(source, name, coherence.leaseMs),
        channel: store.channel,
        commands: connection,
        instanceId,
        ...coherence,
      },
      events,
      false,
    );
  }
  // The same nodes, with settings of its own, such as other credentials.
  let own: Promise<ClusterDirectory> | undefined;
  const directory = () =>
    subscriber !== undefined && namesCluster(subscriber)
      ? (own ??= openOwnCluster(subscriber, name, coherence.leaseMs))
      : topology!.directory;
  return new RedisSubscriber(
    {
      channels: keys.eachPartition((partition) => ({
        name: keys.channelOf(partition),
        probe: keys.probe(partition),
      })),
      follow: (onMasters) =>
        connection.follow((masters) =>
          onMasters(
            masters.map(({ node, ...master }) => ({
              ...master,
              connect: async () => (await directory()).connectTo(node, name, coherence.leaseMs),
            })),
          ),
        ),
      onRedirected: (listener) => connection.onRedirected(listener),
      instanceId,
      ...coherence,
    },
    events,
    false,
  );
}

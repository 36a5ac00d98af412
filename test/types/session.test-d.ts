// What the compiler infers for users of the public API. Checked by tsc, never run.
import type { IncomingMessage } from 'node:http';
import type { ExecutionContext, ModuleMetadata } from '@nestjs/common';
import { describe, expectTypeOf, it } from 'vitest';
import {
  ActiveSession,
  OptionalSession,
  PublicSession,
  RequireSession,
  RequireUser,
  Session,
  sessionOf,
  SessionEvents,
  SessionModule,
  SessionRegistry,
  SessionService,
  SkipCsrf,
  StrictSession,
  type HttpRequest,
  type SessionData,
  type SessionEndReason,
  type SessionInfo,
  type SessionMetadata,
  type SessionModuleOptions,
  type SessionOptionsFactory,
  type SessionRecord,
  type SessionSource,
  type CacheStats,
  type SubscriberState,
} from 'nestjs-sessionkit';

interface Cart {
  items: string[];
  total?: number;
  at: Date;
}

// Fields merged into SessionData are what a service without type argument holds.
declare module 'nestjs-sessionkit' {
  interface SessionData {
    mergedField?: number;
  }
}

declare const sessions: SessionService<Cart>;
declare const session: ActiveSession<Cart>;

describe('SessionService<T>', () => {
  it('create() takes T and gives ActiveSession<T>', () => {
    expectTypeOf<Parameters<typeof sessions.create>[0]>().toEqualTypeOf<Cart | undefined>();
    expectTypeOf(sessions.create({ items: [], at: new Date() })).resolves.toEqualTypeOf<
      ActiveSession<Cart>
    >();
    // @ts-expect-error a required field is missing
    void sessions.create({ items: [] });
    // @ts-expect-error a field of the wrong type
    void sessions.create({ items: 'a', at: new Date() });
    // @ts-expect-error an unknown option
    void sessions.create({ items: [], at: new Date() }, { ttl: 5 });
    void sessions.create(
      { items: [], at: new Date() },
      { userId: 'ann', idleTimeout: '30m', absoluteTimeout: 0 },
    );
  });

  it('get() takes anything and may give null', () => {
    expectTypeOf<Parameters<typeof sessions.get>[0]>().toBeUnknown();
    expectTypeOf(sessions.get('x')).resolves.toEqualTypeOf<ActiveSession<Cart> | null>();
    expectTypeOf(sessions.get('x', { fresh: true })).resolves.toEqualTypeOf<ActiveSession<Cart> | null>();
    // @ts-expect-error true or false
    void sessions.get('x', { fresh: 1 });
    // @ts-expect-error an unknown option
    void sessions.get('x', { strict: true });
    expectTypeOf(sessions.touch('x')).resolves.toEqualTypeOf<ActiveSession<Cart> | null>();
    expectTypeOf(sessions.destroy('x')).resolves.toBeBoolean();
  });

  it('update() takes a patch of T', () => {
    expectTypeOf(sessions.update('x', { total: 5 })).resolves.toEqualTypeOf<ActiveSession<Cart>>();
    void sessions.update('x', {});
    // @ts-expect-error a field that T does not have
    void sessions.update('x', { totals: 5 });
    // @ts-expect-error a field of the wrong type
    void sessions.update('x', { total: '5' });
  });

  it('update() takes a function of T that changes it or returns T, at once or later', () => {
    void sessions.update('x', (data) => {
      expectTypeOf(data).toEqualTypeOf<Cart>();
      data.items.push('a');
    });
    void sessions.update('x', (data) => ({ ...data, total: 1 }));
    void sessions.update('x', async (data) => {
      data.total = await Promise.resolve(1);
    });
    void sessions.update('x', async (data) => ({ ...data }), { keepExpiry: true });
    // @ts-expect-error what is returned is all of the new data
    void sessions.update('x', () => ({ total: 1 }));
    // @ts-expect-error a number is no data
    void sessions.update('x', () => 5);
  });

  it('replace() takes all of T', () => {
    void sessions.replace('x', { items: [], at: new Date() });
    // @ts-expect-error a required field is missing
    void sessions.replace('x', { items: [] });
  });

  it('regenerate() takes a user or null', () => {
    expectTypeOf(sessions.regenerate('x', { userId: null })).resolves.toEqualTypeOf<ActiveSession<Cart>>();
    // @ts-expect-error ids of users are strings
    void sessions.regenerate('x', { userId: 5 });
  });

  it('without a type argument it holds SessionData, with what the app merged into it', () => {
    expectTypeOf<SessionService>().toEqualTypeOf<SessionService<SessionData>>();
    expectTypeOf<ActiveSession['data']>().toEqualTypeOf<SessionData>();
    expectTypeOf<SessionData['mergedField']>().toEqualTypeOf<number | undefined>();
    expectTypeOf<ActiveSession>().toHaveProperty('get').parameter(0).toEqualTypeOf<'mergedField'>();
  });

  it('takes interfaces and type aliases alike, but no primitives', () => {
    expectTypeOf<SessionService<{ a: 1 }>>().not.toBeAny();
    // @ts-expect-error data is an object
    expectTypeOf<SessionService<string>>();
  });
});

describe('ActiveSession<T>', () => {
  it('get() takes keys of T and gives the field’s type or undefined', () => {
    expectTypeOf<Parameters<typeof session.get>[0]>().toEqualTypeOf<'items' | 'total' | 'at'>();
    expectTypeOf(session.get('items')).toEqualTypeOf<string[] | undefined>();
    expectTypeOf(session.get('total')).toEqualTypeOf<number | undefined>();
    // @ts-expect-error T has no such field
    session.get('nope');
  });

  it('set() takes a key and a value of its type, delete() a key', () => {
    expectTypeOf(session.set('at', new Date())).resolves.toBeVoid();
    void session.set('total', 5, { keepExpiry: true });
    // @ts-expect-error the value is of another field's type
    void session.set('items', new Date());
    // @ts-expect-error T has no such field
    void session.set('nope', 1);
    // @ts-expect-error T has no such field
    void session.delete('nope');
  });

  it('data is T and may be changed and assigned; the rest is read-only', () => {
    expectTypeOf(session.data).toEqualTypeOf<Cart>();
    session.data.total = 5;
    session.data = { items: [], at: new Date() };
    // @ts-expect-error read-only
    session.token = 'x';
    // @ts-expect-error read-only
    session.userId = 'ann';
    // @ts-expect-error frozen
    session.metadata.label = 'x';
  });

  it('says null where there is nothing, never undefined', () => {
    expectTypeOf(session.userId).toEqualTypeOf<string | null>();
    expectTypeOf(session.expiresAt).toEqualTypeOf<number | null>();
    expectTypeOf(session.expiresIn).toEqualTypeOf<number | null>();
    expectTypeOf(session.source).toEqualTypeOf<SessionSource>();
    expectTypeOf(session.isStored).toBeBoolean();
    expectTypeOf(session.isNew).toBeBoolean();
    expectTypeOf<SessionSource>().toEqualTypeOf<'new' | 'cache' | 'store' | 'stale'>();
    expectTypeOf(session.metadata).toEqualTypeOf<SessionMetadata>();
  });

  it('regenerate() gives the same session back', () => {
    expectTypeOf(session.regenerate()).resolves.toEqualTypeOf<ActiveSession<Cart>>();
  });
});

describe('SessionRegistry and SessionEvents', () => {
  it('lists sessions without token and data', () => {
    expectTypeOf<SessionRegistry['getUserSessions']>().returns.resolves.toEqualTypeOf<SessionInfo[]>();
    expectTypeOf<SessionInfo>().not.toHaveProperty('data');
    expectTypeOf<SessionInfo>().not.toHaveProperty('token');
    expectTypeOf<SessionRegistry['killUser']>()
      .parameter(1)
      .toExtend<{ except?: string | readonly string[] } | undefined>();
  });

  it('events have typed names and payloads', () => {
    const events = {} as SessionEvents;
    events.on('destroyed', ({ id, userId, reason }) => {
      expectTypeOf(id).toBeString();
      expectTypeOf(userId).toEqualTypeOf<string | null>();
      expectTypeOf(reason).toEqualTypeOf<SessionEndReason>();
      expectTypeOf<'destroyed' | 'killed'>().toExtend<SessionEndReason>();
    });
    events.on('lease', ({ state, epoch, reason }) => {
      expectTypeOf(state).toEqualTypeOf<SubscriberState>();
      expectTypeOf(epoch).toBeNumber();
      expectTypeOf(reason).toEqualTypeOf<string | null>();
    });
    events.on('cacheReport', (stats) => expectTypeOf(stats).toEqualTypeOf<CacheStats>());
    events.on('cacheError', ({ operation, id }) => {
      expectTypeOf(operation).toEqualTypeOf<'write' | 'read' | 'remove'>();
      expectTypeOf(id).toEqualTypeOf<string | null>();
    });
    // @ts-expect-error no such event
    events.on('destroy', () => undefined);
  });
});

describe('@StrictSession()', () => {
  it('stands on classes and methods, with or without a boolean', () => {
    @StrictSession()
    class Controller {
      @StrictSession(false)
      relaxed(): void {}
    }
    expectTypeOf(Controller).toBeConstructibleWith();
    // @ts-expect-error not a word
    StrictSession('yes');
  });
});

describe('decorators of routes', () => {
  it('stand on classes and methods; @Session() on parameters, with a key or without', () => {
    @OptionalSession()
    @RequireUser()
    @SkipCsrf()
    class Controller {
      @RequireSession()
      @SkipCsrf(false)
      one(@Session() _session: ActiveSession<Cart>, @Session('items') _items: string[] | undefined): void {}

      @RequireUser()
      two(): void {}

      @PublicSession()
      three(): void {}
    }
    expectTypeOf(Controller).toBeConstructibleWith();
    // @ts-expect-error a key is a word
    Session(5);
    // @ts-expect-error roles are the app's own
    RequireUser('admin');
  });
});

describe('sessionOf()', () => {
  it('takes the request of a context or of a framework, and gives a session, null or undefined', () => {
    expectTypeOf(sessionOf).returns.toEqualTypeOf<ActiveSession<object> | null | undefined>();
    const contextual = {} as ExecutionContext;
    sessionOf(contextual.switchToHttp().getRequest<HttpRequest>());
    sessionOf({} as IncomingMessage);
    expectTypeOf(sessionOf({} as HttpRequest)?.userId).toEqualTypeOf<string | null | undefined>();
    // @ts-expect-error the context is no request
    sessionOf(contextual);
  });
});

describe('SessionModule', () => {
  class Factory implements SessionOptionsFactory {
    createSessionOptions(): SessionModuleOptions {
      return {};
    }
  }

  it('forRoot() takes the options, all optional, isGlobal with them, and goes into imports', () => {
    expectTypeOf(SessionModule.forRoot()).toExtend<NonNullable<ModuleMetadata['imports']>[number]>();
    SessionModule.forRoot({ redis: process.env.REDIS_URL, isGlobal: false });
    SessionModule.forRoot({ redis: { host: 'localhost' }, idleTimeout: '30m', cache: false });
    SessionModule.forRoot({ transport: ['cookie', { header: 'x-auth-token' }], cache: { maxEntries: 0 } });
    SessionModule.forRoot({
      events: {
        cacheClear: ({ size }) => expectTypeOf(size).toBeNumber(),
        message: ({ origin }) => expectTypeOf(origin).toBeString(),
      },
    });
    // @ts-expect-error an unknown option
    SessionModule.forRoot({ idleTimout: '30m' });
    // @ts-expect-error an unknown transport
    SessionModule.forRoot({ transport: 'query' });
    SessionModule.forRoot({
      cookie: { secure: 'auto', sameSite: 'lax', maxAge: '30d', secrets: ['a', 'b'] },
    });
    SessionModule.forRoot({ csrf: { strict: true, allowedOrigins: ['https://app.example.com'] } });
    for (const csrf of [true, false, 'strict'] as const) SessionModule.forRoot({ csrf });
    // @ts-expect-error an environment variable is text
    SessionModule.forRoot({ cookie: { secure: 'true' } });
    // @ts-expect-error sameSite is a word
    SessionModule.forRoot({ cookie: { sameSite: true } });
    // @ts-expect-error no such strictness
    SessionModule.forRoot({ csrf: 'lax' });
    // @ts-expect-error true is no cache
    SessionModule.forRoot({ cache: true });
    SessionModule.forRoot({ cache: { type: 'file', directory: '/tmp', idleCheckInterval: '30s' } });
    SessionModule.forRoot({
      cache: { encoder: JSON.stringify, decoder: JSON.parse, reportInterval: 60_000 },
      coherence: { leaseMs: 1_000, heartbeatMs: 100 },
      waitForReplicas: 1,
    });
    SessionModule.forRoot({
      cache: {
        encoder: async (record) => {
          expectTypeOf(record).toEqualTypeOf<SessionRecord>();
          return new Uint8Array();
        },
        decoder: async (encoded) => {
          expectTypeOf(encoded).toEqualTypeOf<string | Buffer>();
          return {};
        },
      },
    });
    // @ts-expect-error an encoder makes text or bytes
    SessionModule.forRoot({ cache: { encoder: () => 5 } });
    // @ts-expect-error no such place for copies
    SessionModule.forRoot({ cache: { type: 'redis' } });
    // @ts-expect-error leaseMs is a number of milliseconds, not a duration
    SessionModule.forRoot({ coherence: { leaseMs: '2s' } });
    SessionModule.forRoot({
      maxSessionsPerUser: (userId) => (userId === 'robot' ? Infinity : 3),
      onLimit: 'reject',
    });
    // @ts-expect-error no such policy
    SessionModule.forRoot({ maxSessionsPerUser: 3, onLimit: 'evict' });
    // @ts-expect-error a duration is a number or a string
    SessionModule.forRoot({ idleTimeout: true });
  });

  it('dataClass takes classes, with fields, without, and with private ones, and nothing else', () => {
    class WithFields {
      constructor(readonly fields: Record<string, unknown>) {}
    }
    class WithPart {
      constructor(readonly cart: Partial<Cart>) {}
    }
    class WithNothing {
      count = 0;
      #seen = 0;
      see(): number {
        return ++this.#seen;
      }
    }
    for (const dataClass of [WithFields, WithPart, WithNothing]) SessionModule.forRoot({ dataClass });
    // @ts-expect-error an instance is no class
    SessionModule.forRoot({ dataClass: new WithNothing() });
    // @ts-expect-error a function cannot be constructed
    SessionModule.forRoot({ dataClass: () => ({}) });
    class WithNumber {
      constructor(readonly count: number) {}
    }
    // @ts-expect-error the constructor gets the fields, nothing else
    SessionModule.forRoot({ dataClass: WithNumber });
    // Its getters and methods are there where the service is told the class.
    const wrapped = {} as SessionService<WithNothing>;
    expectTypeOf<NonNullable<Awaited<ReturnType<typeof wrapped.get>>>['data']>().toEqualTypeOf<WithNothing>();
    void wrapped.update('x', (data) => {
      expectTypeOf(data.see()).toBeNumber();
    });
  });

  it('forRootAsync() takes a factory, a class or an existing provider', () => {
    SessionModule.forRootAsync({ useFactory: () => ({ redis: 'redis://localhost' }) });
    SessionModule.forRootAsync({
      imports: [],
      inject: [Factory],
      useFactory: async () => ({ partitions: 16 }),
    });
    SessionModule.forRootAsync({ useClass: Factory, isGlobal: true });
    SessionModule.forRootAsync({ useExisting: Factory });
    // @ts-expect-error the factory returns something else
    SessionModule.forRootAsync({ useFactory: () => ({ partitions: '16' }) });
    // @ts-expect-error the class makes no options
    SessionModule.forRootAsync({ useClass: class {} });
  });
});

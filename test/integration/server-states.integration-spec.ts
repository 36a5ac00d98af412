// Every state in which a server answers with an error, or not in time, made on a real one; what each costs, and whom.
// Those of Redis Cluster (CLUSTERDOWN, MOVED, ASK, TRYAGAIN) are made where there is one.
import 'reflect-metadata';
import { randomBytes } from 'node:crypto';
import { Controller, Get, Module, Post, UseGuards, type INestApplication } from '@nestjs/common';
import { APP_FILTER, NestFactory } from '@nestjs/core';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  ActiveSession,
  RedisSubscriber,
  Session,
  SessionExceptionFilter,
  SessionGuard,
  SessionModule,
  SessionService,
  StrictSession,
  SESSION_STORE,
  type SessionStore,
  type SessionStoreUnavailableError,
} from '../../lib/index.js';
import { SessionHealthIndicator } from '../../lib/health/index.js';
import { freePort } from '../support/free-port.js';
import { RedisServer } from '../support/redis-server.js';
import { waitFor } from '../support/wait-for.js';
import { countUnhandledRejections, silenceLogger, type Fields } from './session-node.js';

const TIMEOUT_MS = 400;
const BACK_WITHIN_MS = 10_000; // two connections of ioredis, each with its own pauses, on a slow machine
const USER = 'sessions';
const PASSWORD = 'a-password-of-the-tests';

@Controller()
@UseGuards(SessionGuard)
@StrictSession()
class MeController {
  @Get('me')
  me(@Session() session: ActiveSession<Fields>): Fields {
    return { id: session.id, n: session.get('n') };
  }
  @Post('up')
  async up(@Session() session: ActiveSession<Fields>): Promise<Fields> {
    await session.update((data) => {
      data.n = Number(data.n ?? 0) + 1;
    });
    return { n: session.get('n') };
  }
  @Post('out')
  async out(@Session() session: ActiveSession<Fields>): Promise<Fields> {
    await session.destroy();
    return {};
  }
}

interface State {
  readonly name: string;
  /** Brings the server into the state; resolves when it is in it. */
  enter(admin: Redis): Promise<unknown>;
  leave(admin: Redis): Promise<unknown>;
  /** What a guarded read gets in it; a write; a sign-out. */
  readonly read: 200 | 503;
  readonly write: 201 | 503;
  readonly end: 201 | 503;
  /** What the error of a write says, where the server says it. */
  readonly says?: RegExp;
  /** Whether the write that was refused is known to have changed nothing. */
  readonly outcomeUnknown?: boolean;
  readonly breaker?: 'open';
}

const config = (name: string, value: string) => (admin: Redis) => admin.config('SET', name, value);
let busy: Promise<unknown>;

const STATES: State[] = [
  {
    name: 'OOM: full, and nothing may be evicted. Reads and sign-outs go on',
    enter: config('maxmemory', '1'),
    leave: config('maxmemory', '0'),
    read: 200,
    write: 503,
    end: 201,
    says: /OOM/,
  },
  {
    name: 'MISCONF: it could not save to disk',
    enter: async (admin) => {
      await admin.config('SET', 'dbfilename', 'x'.repeat(300)); // no file has such a name
      await admin.config('SET', 'save', '3600 1');
      await admin.bgsave();
      await waitFor(async () => (await admin.info('persistence')).includes('rdb_last_bgsave_status:err'));
    },
    leave: async (admin) => {
      await admin.config('SET', 'save', '');
      await admin.config('SET', 'dbfilename', 'dump.rdb');
    },
    read: 200,
    write: 503,
    end: 503,
    says: /MISCONF/,
  },
  {
    name: 'NOREPLICAS: too few replicas to write',
    enter: config('min-replicas-to-write', '1'),
    leave: config('min-replicas-to-write', '0'),
    read: 200,
    write: 503,
    end: 503,
    says: /NOREPLICAS/,
  },
  {
    name: 'READONLY: it was made a replica. Nothing is read from it any more',
    enter: async (admin) => admin.replicaof('127.0.0.1', await freePort()),
    leave: (admin) => admin.replicaof('NO', 'ONE'),
    read: 503,
    write: 503,
    end: 503,
  },
  {
    name: 'MASTERDOWN: a replica without its master',
    enter: async (admin) => {
      await admin.config('SET', 'replica-serve-stale-data', 'no');
      await admin.replicaof('127.0.0.1', await freePort());
    },
    leave: async (admin) => {
      await admin.replicaof('NO', 'ONE');
      await admin.config('SET', 'replica-serve-stale-data', 'yes');
    },
    read: 503,
    write: 503,
    end: 503,
  },
  {
    name: 'LOADING: it reads its data from disk',
    enter: async (admin) => {
      await admin.config('SET', 'key-load-delay', '40000'); // µs for each key
      const fill = (key: number) => admin.set(`filler:${key}`, randomBytes(4_096)); // not to be compressed
      await Promise.all(Array.from({ length: 40 }, (_, key) => fill(key)));
      busy = admin.call('DEBUG', 'RELOAD');
      const other = admin.duplicate({ enableReadyCheck: false });
      await waitFor(async () => {
        const answer = await other.get('filler:1').catch((error: Error) => error.message);
        return String(answer).startsWith('LOADING');
      });
      other.disconnect();
    },
    leave: async (admin) => {
      await busy;
      await admin.config('SET', 'key-load-delay', '0');
    },
    read: 503,
    write: 503,
    end: 503,
    says: /LOADING/,
  },
  {
    name: "BUSY: somebody's script runs for ever",
    enter: async (admin) => {
      await admin.config('SET', 'lua-time-limit', '50');
      const other = admin.duplicate();
      busy = other
        .eval('while true do end', 0)
        .catch(() => undefined)
        .finally(() => other.disconnect());
      await waitFor(async () => {
        const answer = await admin.get('x').catch((error: Error) => error.message);
        return String(answer).startsWith('BUSY');
      });
    },
    leave: async (admin) => {
      await admin.script('KILL');
      await busy;
      await admin.config('SET', 'lua-time-limit', '5000');
    },
    read: 503,
    write: 503,
    end: 503,
    says: /BUSY/,
  },
  {
    name: 'NOPERM: an ACL that allows no scripts',
    enter: (admin) => admin.call('ACL', 'SETUSER', USER, '-evalsha', '-eval'),
    leave: (admin) => admin.call('ACL', 'SETUSER', USER, '+evalsha', '+eval'),
    read: 200,
    write: 503,
    end: 503,
    says: /NOPERM/,
  },
  {
    name: 'NOPERM: an ACL that allows no announcements. Nothing is half-written',
    enter: (admin) => admin.call('ACL', 'SETUSER', USER, 'resetchannels'),
    leave: (admin) => admin.call('ACL', 'SETUSER', USER, 'allchannels'),
    read: 200,
    write: 503,
    end: 503,
    says: /channel/i,
  },
  {
    name: 'NOPERM: an ACL that allows no writes: how far a script came is not known',
    enter: (admin) => admin.call('ACL', 'SETUSER', USER, '-@write'),
    leave: (admin) => admin.call('ACL', 'SETUSER', USER, '+@write'),
    read: 200,
    write: 503,
    end: 503,
    outcomeUnknown: true,
  },
  {
    name: 'NOSCRIPT: it has forgotten the scripts',
    enter: (admin) => admin.script('FLUSH'),
    leave: async () => undefined,
    read: 200,
    write: 201,
    end: 201,
  },
  {
    name: 'NOAUTH: the password was changed, and the links are gone',
    enter: async (admin) => {
      await admin.call('ACL', 'SETUSER', USER, 'resetpass', '>another');
      await admin.call('CLIENT', 'KILL', 'USER', USER);
    },
    leave: (admin) => admin.call('ACL', 'SETUSER', USER, `>${PASSWORD}`),
    read: 503,
    write: 503,
    end: 503,
  },
  {
    name: 'full: it takes no more connections, and ours are gone',
    enter: async (admin) => {
      await admin.config('SET', 'maxclients', '1');
      await admin.call('CLIENT', 'KILL', 'USER', USER);
    },
    leave: config('maxclients', '10000'),
    read: 503,
    write: 503,
    end: 503,
  },
  {
    name: 'asleep: it answers nothing for two seconds',
    enter: async (admin) => void (busy = admin.call('DEBUG', 'SLEEP', '2')),
    leave: () => busy,
    read: 503,
    write: 503,
    end: 503,
    breaker: 'open',
  },
];

describe('states of a server', () => {
  let server: RedisServer;
  let admin: Redis;
  let app: INestApplication;
  let sessions: SessionService<Fields>;
  let rejections: ReturnType<typeof countUnhandledRejections>;

  beforeAll(async () => {
    server = await RedisServer.start({
      args: [
        '--enable-debug-command',
        'yes',
        '--enable-protected-configs',
        'yes',
        '--loading-process-events-interval-bytes',
        '1024',
      ],
    });
    admin = new Redis(server.url);
    await admin.call('ACL', 'SETUSER', USER, 'on', `>${PASSWORD}`, 'allkeys', 'allchannels', '+@all');
  });
  afterAll(async () => {
    admin?.disconnect();
    await server?.stop();
  });
  beforeEach(async () => {
    rejections = countUnhandledRejections();
    const { host } = new URL(server.url);
    @Module({
      imports: [
        SessionModule.forRoot({
          redis: `redis://${USER}:${PASSWORD}@${host}`,
          commandTimeout: `${TIMEOUT_MS}ms`,
          touchInterval: 0, // every read prolongs
          cookie: { maxAge: '1h' }, // which its answer waits for
          sweepInterval: '1s',
        }),
      ],
      controllers: [MeController],
      providers: [{ provide: APP_FILTER, useClass: SessionExceptionFilter }],
    })
    class AppModule {}
    app = await NestFactory.create(AppModule, { logger: false, abortOnError: false });
    await app.listen(0, '127.0.0.1');
    sessions = app.get<SessionService<Fields>>(SessionService);
  });
  afterEach(async () => {
    await app.close();
    rejections.stop();
    expect(rejections.reasons).toEqual([]);
    silenceLogger();
  });

  const health = () =>
    new SessionHealthIndicator(app.get<SessionStore>(SESSION_STORE), app.get(RedisSubscriber));
  const breaker = () => app.get<SessionStore>(SESSION_STORE).breaker;
  /** `cookie`: the token that the client is to have from now on, empty for none; undefined where it is told nothing. */
  async function ask(path: string, token: string): Promise<{ status: number; cookie: string | undefined }> {
    const response = await fetch((await app.getUrl()) + path, {
      method: path === '/me' ? 'GET' : 'POST',
      headers: { cookie: `sid=${token}` },
    });
    const body = await response.text();
    if (response.status === 503)
      expect(JSON.parse(body)).toEqual({
        statusCode: 503,
        message: 'Try again later',
        error: 'Service Unavailable',
      });
    const [cookie] = response.headers.getSetCookie();
    return { status: response.status, cookie: cookie?.slice('sid='.length, cookie.indexOf(';')) };
  }

  it.each(STATES)('$name', async (state) => {
    const kept = await sessions.create({ n: 0 });
    const ending = await sessions.create({ n: 0 });
    let acknowledged = 0;
    const unknown = { writes: 0 };
    await state.enter(admin);
    try {
      if (state.read === 503 && state.says === undefined) {
        // Until the link is given up, or the breaker open: reads of a server that is still the master are right.
        await waitFor(async () => (await ask('/me', kept.token)).status === 503);
      }
      const [read, write] = [await ask('/me', kept.token), await ask('/up', kept.token)];
      expect({ read: read.status, write: write.status }).toEqual({ read: state.read, write: state.write });
      if (state.read === 503) expect(read.cookie).toBeUndefined();
      if (write.status === 201) acknowledged++;
      else unknown.writes++;
      const error = await sessions.update(kept.token, { m: 1 }).then(
        () => null,
        (reason: SessionStoreUnavailableError) => reason,
      );
      if (state.write === 201) expect(error).toBeNull();
      else {
        expect(error).toMatchObject({ code: 'SESSION_STORE_UNAVAILABLE' });
        if (state.says !== undefined) {
          expect(error).toMatchObject({ outcomeUnknown: state.outcomeUnknown ?? false });
          expect(error?.message).toMatch(state.says);
          expect(`${error?.stack} ${String((error?.cause as Error)?.stack)}`).not.toContain(kept.token);
        }
      }
      const end = await ask('/out', ending.token);
      expect(end.status).toBe(state.end);
      // Cleared by the request that ended it, and by no other. One that is told anew has been prolonged.
      if (state.end === 201) expect(end.cookie).toBe('');
      else expect([undefined, ending.token]).toContain(end.cookie);
      if (state.breaker !== undefined) {
        await waitFor(async () => {
          await Promise.all([ask('/me', kept.token), ask('/me', kept.token), ask('/me', kept.token)]);
          return breaker() === state.breaker;
        });
      }
      expect([200, 503]).toContain((await ask('/me', kept.token)).status);
      // A server that answers is not thereby one that can be used.
      const { status } = (await health().isHealthy()).sessions;
      expect(status).toBe(state.read === 200 ? 'up' : 'down');
    } finally {
      await state.leave(admin);
    }
    await waitFor(async () => (await ask('/me', kept.token)).status === 200, { timeoutMs: BACK_WITHIN_MS });
    await waitFor(() => breaker() === 'closed');
    expect((await ask('/up', kept.token)).status).toBe(201);
    acknowledged++;
    const n = Number((await sessions.get(kept.token, { fresh: true }))?.get('n'));
    expect(n).toBeGreaterThanOrEqual(acknowledged);
    expect(n).toBeLessThanOrEqual(acknowledged + unknown.writes);
    // Ended where that was confirmed; alive, or ended by a command whose answer was lost, where it was not.
    const { status } = await ask('/me', ending.token);
    if (state.end === 201) expect(status).toBe(401);
    else if (state.says !== undefined && state.outcomeUnknown !== true) expect(status).toBe(200);
  });
});

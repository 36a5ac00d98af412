// Redis does not answer: what the commands after the first ones cost, and how it is noticed that it answers again.
// The toggling at the end takes 16 s, and 60 s with SOAK=1.
import 'reflect-metadata';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Controller, Get, Module, Post, UseGuards, type INestApplication } from '@nestjs/common';
import { APP_FILTER, NestFactory } from '@nestjs/core';
import { Redis } from 'ioredis';
import request from 'supertest';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  ActiveSession,
  PublicSession,
  Session,
  SessionEvents,
  SessionExceptionFilter,
  SessionGuard,
  SessionModule,
  SessionService,
  SessionStoreUnavailableError,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { RedisConnection } from '../../lib/store/redis-connection.js';
import { openOwnClient } from '../../lib/store/redis-client.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { countUnhandledRejections, silenceLogger, type Fields } from './session-node.js';

const TIMEOUT_MS = 400;
/** Far below the time a command has, on a machine that is busy with other tests; the figure itself is printed. */
const AT_ONCE_MS = TIMEOUT_MS / 4;
const BACK_WITHIN_MS = 2_000;
/** Above the time a command has. */
const MARGIN_MS = 1_000;

function report(what: string, ms: number): void {
  process.stdout.write(`${what}: ${ms.toFixed(2)} ms\n`);
}
const median = (figures: number[]): number => figures.sort((a, b) => a - b)[Math.floor(figures.length / 2)]!;

@Controller()
@UseGuards(SessionGuard)
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
  @Get('open')
  @PublicSession()
  open(): Fields {
    return { ok: true };
  }
}

async function startApp(options: SessionModuleOptions): Promise<INestApplication> {
  @Module({
    imports: [SessionModule.forRoot(options)],
    controllers: [MeController],
    providers: [{ provide: APP_FILTER, useClass: SessionExceptionFilter }],
  })
  class AppModule {}
  const app = await NestFactory.create(AppModule, { logger: false, abortOnError: false });
  await app.listen(0, '127.0.0.1');
  return app;
}

describe('a Redis that does not answer', () => {
  let server: RedisServer;
  let proxy: TcpProxy;
  let commands: string[];
  let rejections: ReturnType<typeof countUnhandledRejections>;
  const closing: (() => Promise<unknown>)[] = [];

  beforeEach(async () => {
    rejections = countUnhandledRejections();
    server = await RedisServer.start();
    commands = [];
    proxy = await TcpProxy.start({
      targetPort: server.port,
      onCommand: ([name]) => commands.push(name!.toLowerCase()),
    });
  });
  afterEach(async () => {
    if (server.running) server.resume();
    proxy.resume();
    for (const close of closing.splice(0)) await close();
    await proxy.close();
    await server.stop();
    rejections.stop();
    expect(rejections.reasons).toEqual([]);
    silenceLogger();
  });

  async function connect(url = proxy.url): Promise<{ connection: RedisConnection; said: boolean[] }> {
    const said: boolean[] = [];
    const connection = new RedisConnection(
      () => openOwnClient(url, 'breaker', TIMEOUT_MS * 20), // the link is not given up
      async () => null,
      TIMEOUT_MS,
      (available) => said.push(available),
    );
    await connection.open();
    closing.push(() => connection.close());
    return { connection, said };
  }
  /** The error of a command, and how long it took; null when it was answered. */
  async function ask(
    connection: RedisConnection,
    purpose?: 'request' | 'background' | 'repair',
  ): Promise<{ error: SessionStoreUnavailableError | null; ms: number }> {
    const begun = performance.now();
    const error = await connection
      .read(0, 'get a session', (client) => client.get('x'), purpose)
      .then(
        () => null,
        (failure: SessionStoreUnavailableError) => failure,
      );
    return { error, ms: performance.now() - begun };
  }
  async function open(connection: RedisConnection): Promise<void> {
    proxy.blackhole();
    await Promise.all([ask(connection), ask(connection), ask(connection)]);
    expect(connection.breaker).toBe('open');
  }

  it('one command without an answer, or two, leave it closed: the next one waits, and is answered', async () => {
    const { connection } = await connect();
    proxy.blackhole();
    const [{ error, ms }] = await Promise.all([ask(connection), ask(connection)]);
    expect(error?.message).toMatch(/no answer from Redis within/);
    expect(ms).toBeGreaterThan(TIMEOUT_MS - 5);
    expect(connection.breaker).toBe('closed');
    const next = ask(connection);
    proxy.resume();
    expect((await next).error).toBeNull();
  });

  it('open: refused at once with nothing sent, known not to have been done; closed by its own question, in 2 s', async () => {
    const { connection, said } = await connect();
    await open(connection);
    expect(said).toEqual([true, false]);
    proxy.resume(); // what was held is sent; answers, too
    await waitFor(() => connection.breaker === 'closed', { timeoutMs: BACK_WITHIN_MS });
    expect(said).toEqual([true, false, true]);
    expect((await ask(connection)).error).toBeNull();

    await open(connection);
    await waitFor(() => connection.breaker === 'open');
    const before = performance.now();
    const refused = await Promise.all(
      Array.from({ length: 1_000 }, () =>
        connection
          .send('save a session', true, (client) => client.incr('refused'))
          .catch((error) => error as Error),
      ),
    );
    report('1,000 refused commands', performance.now() - before);
    expect(performance.now() - before).toBeLessThan(TIMEOUT_MS);
    for (const error of refused)
      expect(error).toMatchObject({ code: 'SESSION_STORE_UNAVAILABLE', outcomeUnknown: false });
    const begun = performance.now();
    proxy.resume();
    await waitFor(() => connection.breaker === 'closed', { timeoutMs: BACK_WITHIN_MS });
    report('closed again after', performance.now() - begun);
    expect(commands).toContain('ping');
    expect(commands).not.toContain('incr');
    expect((await ask(connection)).error).toBeNull();
  });

  it('open: an error is an answer to its question too, where an ACL forbids PING for example', async () => {
    const { connection } = await connect();
    const raw = new Redis(server.url);
    closing.push(async () => raw.disconnect());
    await raw.call('ACL', 'SETUSER', 'default', '-ping');
    await open(connection);
    proxy.resume();
    await waitFor(() => connection.breaker === 'closed', { timeoutMs: BACK_WITHIN_MS });
    await raw.call('ACL', 'SETUSER', 'default', '+ping');
  });

  it('open: closed at once when the link is attached anew', async () => {
    const { connection } = await connect();
    await open(connection);
    proxy.abandon(); // what was asked on the old link is never answered
    proxy.resume();
    proxy.refuse(true);
    proxy.cutAll();
    await waitFor(() => !connection.connected);
    await delay(1_500); // until its own questions come half a second apart
    expect(connection.breaker).toBe('open');
    proxy.refuse(false);
    const begun = performance.now();
    await waitFor(() => connection.connected, { timeoutMs: BACK_WITHIN_MS, intervalMs: 1 });
    await delay(10);
    expect(connection.breaker).toBe('closed');
    expect(performance.now() - begun).toBeLessThan(BACK_WITHIN_MS);
    expect((await ask(connection)).error).toBeNull();
  });

  it('a command under way when it opens is not refused: it has its own time, and its answer closes it', async () => {
    const { connection } = await connect();
    const write = () =>
      connection
        .send('save a session', true, (client) => client.incr('late'))
        .then(
          () => null,
          (error: SessionStoreUnavailableError) => error,
        );
    proxy.blackhole();
    const first = [ask(connection), ask(connection), ask(connection)];
    await delay(TIMEOUT_MS / 2);
    const late = [ask(connection).then(({ error }) => error), write()];
    await Promise.all(first);
    expect(connection.breaker).toBe('open');
    proxy.resume();
    expect(await Promise.all(late)).toEqual([null, null]);
    await waitFor(() => connection.breaker === 'closed');

    proxy.blackhole();
    const second = [ask(connection), ask(connection), ask(connection)];
    await delay(TIMEOUT_MS / 2);
    const lost = write();
    await Promise.all(second);
    expect(connection.breaker).toBe('open');
    expect(await lost).toMatchObject({ outcomeUnknown: true }); // it was sent, unlike what is refused now
    expect(await write()).toMatchObject({ outcomeUnknown: false });
  });

  it('no link at all for that long counts too; a link that breaks for a moment does not', async () => {
    const { connection } = await connect();
    for (let count = 0; count < 10; count++) {
      const asking = [ask(connection), ask(connection), ask(connection), ask(connection)];
      proxy.cutAll();
      for (const { error } of await Promise.all(asking)) expect(error).toBeNull();
      expect(connection.breaker).toBe('closed');
    }
    await server.kill();
    await Promise.all([ask(connection), ask(connection), ask(connection)]);
    expect(connection.breaker).toBe('open');
    const { error, ms } = await ask(connection);
    expect(error).toMatchObject({ outcomeUnknown: false });
    expect(ms).toBeLessThan(AT_ONCE_MS);
    await server.restart();
    await waitFor(() => connection.breaker === 'closed', { timeoutMs: BACK_WITHIN_MS + 3_000 });
    expect((await ask(connection)).error).toBeNull();
  });

  it('a server that is slower than commandTimeout: stays open, and lets nobody wait; closed when it is quick again', async () => {
    const { connection, said } = await connect();
    proxy.delay({ downstreamMs: () => TIMEOUT_MS * 1.5 });
    await Promise.all([ask(connection), ask(connection), ask(connection)]);
    expect(connection.breaker).toBe('open');
    // Long enough for two questions to be answered, each too late.
    const until = performance.now() + TIMEOUT_MS * 4;
    const waited: number[] = [];
    while (performance.now() < until) {
      waited.push((await ask(connection)).ms);
      await delay(10);
    }
    expect(Math.max(...waited)).toBeLessThan(TIMEOUT_MS * 0.8); // refused, and did not wait
    expect(commands.filter((name) => name === 'ping').length).toBeGreaterThan(1);
    expect(said).toEqual([true, false]);
    proxy.delay({});
    await waitFor(() => connection.breaker === 'closed', { timeoutMs: BACK_WITHIN_MS });
    expect((await ask(connection)).error).toBeNull();
  });

  it('a process that was held up itself for longer than commandTimeout: what was answered meanwhile is an answer', async () => {
    const { connection } = await connect(server.url); // a proxy would be held up, too
    await ask(connection);
    const asking = Array.from({ length: 20 }, () => ask(connection));
    await new Promise((resolve) => process.nextTick(resolve)); // they are on the wire
    for (const until = performance.now() + TIMEOUT_MS * 1.5; performance.now() < until;);
    for (const { error } of await Promise.all(asking)) expect(error).toBeNull();
    expect(connection.breaker).toBe('closed');
  });

  it('close() stays closed, though the connection ended for good while a command was waited for', async () => {
    let client: Redis | undefined;
    const connection = new RedisConnection(
      async () => (client = await openOwnClient(proxy.url, 'closing', TIMEOUT_MS * 20)),
      async () => null,
      TIMEOUT_MS,
      () => undefined,
    );
    await connection.open();
    proxy.blackhole();
    const asking = ask(connection);
    const closed = connection.close();
    // It ends when the socket has lingered for 100 ms, shortly before the command is given up, and begins anew 50 ms later.
    await delay(TIMEOUT_MS - 130);
    client!.disconnect();
    expect((await asking).error).not.toBeNull();
    await closed;
    proxy.resume();
    await delay(150);
    await waitFor(() => client!.status === 'end' && proxy.connections === 0);
  });

  it('error replies never open it, and count as answers', async () => {
    const { connection } = await connect();
    const raw = new Redis(server.url);
    closing.push(async () => raw.disconnect());
    const failing = () =>
      connection.send('save a session', true, (client) => client.set('x', '1')).catch(() => 'refused');
    await raw.config('SET', 'maxmemory', '1'); // OOM
    expect(await Promise.all(Array.from({ length: 9 }, failing))).toEqual(Array(9).fill('refused'));
    expect(connection.breaker).toBe('closed');
    expect((await ask(connection)).error).toBeNull(); // reads are served
    await raw.config('SET', 'maxmemory', '0');
    for (const reply of [
      'LOADING Redis is loading',
      'MISCONF Redis is configured',
      'CLUSTERDOWN The cluster is down',
    ]) {
      const errors = Array.from({ length: 9 }, () =>
        connection
          .read(0, 'get a session', (client) => client.eval(`return redis.error_reply(ARGV[1])`, 0, reply))
          .catch((error: Error) => error.message),
      );
      for (const message of await Promise.all(errors)) expect(message).toContain(reply);
      expect(connection.breaker).toBe('closed');
    }
    // Two silences, an error reply, two silences: never three in a row.
    for (let round = 0; round < 2; round++) {
      proxy.blackhole();
      await Promise.all([ask(connection), ask(connection)]);
      proxy.resume();
      await raw.config('SET', 'maxmemory', '1');
      expect(await failing()).toBe('refused');
      await raw.config('SET', 'maxmemory', '0');
    }
    expect(connection.breaker).toBe('closed');
  });

  it('work in the background does not open it, and is refused at once while it is open; a repair is tried all the same', async () => {
    const { connection } = await connect();
    proxy.blackhole();
    await Promise.all(Array.from({ length: 20 }, () => ask(connection, 'background')));
    expect(connection.breaker).toBe('closed');
    await open(connection);
    expect((await ask(connection, 'background')).ms).toBeLessThan(AT_ONCE_MS);
    const repair = ask(connection, 'repair');
    expect(connection.breaker).toBe('open');
    proxy.resume();
    expect((await repair).error).toBeNull();
  });

  it('a guarded request, Redis frozen: the first ones 503 within commandTimeout, those after them far sooner; then served in 2 s', async () => {
    const app = await startApp({ redis: server.url, cache: false, commandTimeout: `${TIMEOUT_MS}ms` });
    closing.push(() => app.close());
    const { token } = await app.get(SessionService).create({});
    const http = request(app.getHttpServer());
    const get = async (path: string, status: number): Promise<number> => {
      const begun = performance.now();
      await http.get(path).auth(token, { type: 'bearer' }).expect(status);
      return performance.now() - begun;
    };
    await get('/me', 200);
    await server.pause();
    const first = await Promise.all([get('/me', 503), get('/me', 503), get('/me', 503)]);
    expect(Math.max(...first)).toBeLessThan(TIMEOUT_MS + MARGIN_MS);
    const refused: number[] = [];
    const unguarded: number[] = [];
    for (let count = 0; count < 200; count++) {
      refused.push(await get('/me', 503));
      unguarded.push(await get('/open', 200));
    }
    const [one, other] = [median(refused), median(unguarded)];
    report('open: median of 200 guarded requests', one);
    report('      and of 200 of a route without a session', other);
    expect(one).toBeLessThan(AT_ONCE_MS);
    expect(one - other).toBeLessThan(20);
    await http.get('/me').expect(401); // who carries nothing needs no store
    server.resume();
    const begun = performance.now();
    await waitFor(async () => (await http.get('/me').auth(token, { type: 'bearer' })).status === 200);
    report('served again after', performance.now() - begun);
    expect(performance.now() - begun).toBeLessThan(BACK_WITHIN_MS);
  });

  it(
    'dead and alive every second, under 200 requests a second: right answers or 503, no write lost, nothing piles up',
    { timeout: 150_000 },
    async () => {
      const seconds = process.env.SOAK === undefined ? 16 : 60;
      const app = await startApp({ redis: proxy.url, commandTimeout: `${TIMEOUT_MS}ms` });
      closing.push(() => app.close());
      const sessions = app.get<SessionService<Fields>>(SessionService);
      const url = await app.getUrl();
      const held = await Promise.all(
        Array.from({ length: 20 }, async () => {
          const { token, id } = await sessions.create({ n: 0 });
          return { token, id, acknowledged: 0, unknown: 0, seen: 0 };
        }),
      );
      const dead = await sessions.create({});
      await dead.destroy();
      const counts: Record<string, number> = {};
      const wrong: string[] = [];
      const ask = async (
        path: string,
        token: string,
        method: string,
      ): Promise<{ status: number; body: Fields }> => {
        const response = await fetch(`${url}${path}`, {
          method,
          headers: { authorization: `Bearer ${token}` },
        });
        const body = (await response.json()) as Fields;
        counts[response.status] = (counts[response.status] ?? 0) + 1;
        return { status: response.status, body };
      };
      const read = async (one: (typeof held)[number]): Promise<void> => {
        const floor = one.acknowledged;
        const { status, body } = await ask('/me', one.token, 'GET');
        if (status === 503) return;
        // Copies are this process's own, so it sees its own writes.
        if (status !== 200 || body.id !== one.id || Number(body.n) < floor)
          wrong.push(`read ${status} ${JSON.stringify(body)} after ${floor}`);
      };
      const write = async (one: (typeof held)[number]): Promise<void> => {
        const { status } = await ask('/up', one.token, 'POST');
        if (status === 201) one.acknowledged++;
        else if (status === 503) one.unknown++;
        else wrong.push(`write ${status}`);
      };
      const readDead = async (): Promise<void> => {
        const { status } = await ask('/me', dead.token, 'GET');
        if (status !== 401 && status !== 503) wrong.push(`dead ${status}`);
      };
      const handles = () => process.getActiveResourcesInfo().length;
      setFlagsFromString('--expose-gc');
      const collect = runInNewContext('gc') as () => void;
      const heap = () => {
        collect();
        return process.memoryUsage().heapUsed;
      };
      const events = app.get(SessionEvents);
      let outages = 0;
      events.on('storeAvailable', ({ available }) => void (available || outages++));

      let stopped = false;
      const pending = new Set<Promise<unknown>>();
      const load = (async () => {
        const begun = performance.now();
        for (let count = 0; !stopped; count++) {
          const one = held[count % held.length]!;
          const asking = (count % 10 === 0 ? write(one) : count % 25 === 3 ? readDead() : read(one)).finally(
            () => pending.delete(asking),
          );
          pending.add(asking);
          // 200 in a second, whatever a pause has taken.
          await delay(Math.max(0, begun + (count + 1) * 5 - performance.now()));
        }
      })();
      await delay(1_000);
      const before = { handles: handles(), heap: heap() };
      for (let second = 0; second < seconds; second += 2) {
        const freeze = second % 4 === 0;
        if (freeze) await server.pause();
        else proxy.blackhole();
        await delay(1_000);
        if (freeze) server.resume();
        else proxy.resume();
        await delay(1_000);
      }
      stopped = true;
      await load;
      await Promise.all(pending);
      expect(wrong).toEqual([]);
      await waitFor(async () => (await ask('/me', held[0]!.token, 'GET')).status === 200, {
        timeoutMs: BACK_WITHIN_MS,
      });
      for (const one of held) {
        const n = Number((await sessions.get(one.token, { fresh: true }))?.get('n'));
        expect(n).toBeGreaterThanOrEqual(one.acknowledged);
        expect(n).toBeLessThanOrEqual(one.acknowledged + one.unknown);
      }
      // Connections that the load needed while answers were slow are closed when nobody has used them for a while.
      await waitFor(() => handles() <= before.handles + 4, { timeoutMs: 20_000, intervalMs: 100 });
      const after = { handles: handles(), heap: heap() };
      process.stdout.write(
        `answers ${JSON.stringify(counts)}, ${outages} outages; handles ${before.handles} → ${after.handles}; ` +
          `heap ${(before.heap / 2 ** 20).toFixed(1)} → ${(after.heap / 2 ** 20).toFixed(1)} MiB\n`,
      );
      expect(counts[200]).toBeGreaterThan(100);
      expect(counts[503]).toBeGreaterThan(10);
      expect(outages).toBeGreaterThan(seconds / 6);
      expect(after.heap).toBeLessThan(before.heap + 5 * 2 ** 20);
    },
  );
});

// Redis stops under a running Nest app (Express). What a visitor with a session gets: 503, never 401.
import 'reflect-metadata';
import { Controller, Get, Module, Post, UseGuards, type INestApplication } from '@nestjs/common';
import { APP_FILTER, NestFactory } from '@nestjs/core';
import { Redis } from 'ioredis';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  ActiveSession,
  CacheService,
  PublicSession,
  RedisSubscriber,
  Session,
  SessionExceptionFilter,
  SessionGuard,
  SessionModule,
  SessionService,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { freePort } from '../support/free-port.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { CapturingLogger, countUnhandledRejections, silenceLogger, type Fields } from './session-node.js';

const COMMAND_TIMEOUT_MS = 1_000; // the default
/** Above commandTimeout, for HTTP and a machine that is busy with other tests. */
const MARGIN_MS = 500;
const BACK_WITHIN_MS = 2_000;
/** Where the default is not what is shown, so that the tests are not slow. */
const quick = { commandTimeout: '300ms' };

@Controller()
@UseGuards(SessionGuard)
class MeController {
  @Get('me')
  me(@Session() session: ActiveSession<Fields>): Fields {
    return { id: session.id, source: session.source };
  }

  @Post('up')
  async up(@Session() session: ActiveSession<Fields>): Promise<Fields> {
    await session.set('n', 1);
    return { ok: true };
  }

  @Get('health')
  @PublicSession()
  health(): Fields {
    return { ok: true };
  }
}

interface Answer {
  status: number;
  body: Fields;
  ms: number;
}

class App {
  readonly statuses: number[] = [];

  private constructor(
    readonly nest: INestApplication,
    readonly url: string,
  ) {}

  static async start(options: SessionModuleOptions, logger?: CapturingLogger): Promise<App> {
    @Module({
      imports: [SessionModule.forRoot(options)],
      controllers: [MeController],
      providers: [{ provide: APP_FILTER, useClass: SessionExceptionFilter }],
    })
    class AppModule {}
    const nest = await NestFactory.create(AppModule, { logger: logger ?? false, abortOnError: false });
    await nest.listen(0, '127.0.0.1');
    return new App(nest, await nest.getUrl());
  }

  get sessions(): SessionService<Fields> {
    return this.nest.get<SessionService<Fields>>(SessionService);
  }

  async ask(path: string, token: string, method = 'GET'): Promise<Answer> {
    const begun = performance.now();
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, connection: 'close' },
    });
    const body = (await response.json()) as Fields;
    this.statuses.push(response.status);
    return { status: response.status, body, ms: performance.now() - begun };
  }

  me(token: string): Promise<Answer> {
    return this.ask('/me', token);
  }
}

function expectUnavailable({ status, body, ms }: Answer): void {
  expect({ status, body }).toEqual({
    status: 503,
    // Nothing else in it: no address, no command, no reason.
    body: { statusCode: 503, message: expect.any(String) as string, error: 'Service Unavailable' },
  });
  expect(JSON.stringify(body)).not.toMatch(/redis|timeout|127\.0|econn/i);
  expect(ms).toBeLessThan(COMMAND_TIMEOUT_MS + MARGIN_MS);
}

describe('outage of Redis under a running app', () => {
  let server: RedisServer;
  let app: App;
  let rejections: ReturnType<typeof countUnhandledRejections>;

  beforeEach(async () => {
    rejections = countUnhandledRejections();
    server = await RedisServer.start();
  });
  afterEach(async () => {
    if (server.running) server.resume();
    await app.nest.close();
    await server.stop();
    rejections.stop();
    expect(rejections.reasons).toEqual([]);
    silenceLogger();
  });

  /** Asks until the answer has this status; gives the milliseconds it took. */
  async function until(status: number, token: string): Promise<number> {
    const begun = performance.now();
    await waitFor(async () => (await app.me(token)).status === status, { message: `status ${status}` });
    return performance.now() - begun;
  }
  function report(what: string, ms: number): void {
    process.stdout.write(`${what}: ${ms.toFixed(0)} ms\n`);
  }

  it('Redis frozen (SIGSTOP): 503 within commandTimeout, never 401, back within 2 s of SIGCONT', async () => {
    app = await App.start({ redis: server.url, cache: false });
    const { token } = await app.sessions.create({ name: 'Ada' });
    expect((await app.me(token)).status).toBe(200);
    const before = app.statuses.length;
    await server.pause();
    const begun = performance.now();
    const answers = await Promise.all(Array.from({ length: 20 }, () => app.me(token)));
    answers.forEach(expectUnavailable);
    report('frozen: slowest 503', Math.max(...answers.map(({ ms }) => ms)));
    // Long enough for the link to be given up and asked for again and again.
    while (performance.now() - begun < 2_500) expectUnavailable(await app.ask('/up', token, 'POST'));
    expect((await app.ask('/health', token)).status).toBe(200);
    server.resume();
    const back = await until(200, token);
    report('frozen: served again after', back);
    expect(back).toBeLessThan(BACK_WITHIN_MS);
    expect(app.statuses.slice(before)).not.toContain(401);
    expect((await app.ask('/up', token, 'POST')).status).toBe(201);
  });

  it('Redis killed (SIGKILL) and restarted: 503 within commandTimeout, serves within 2 s of its return', async () => {
    app = await App.start({ redis: server.url });
    const { token } = await app.sessions.create({ name: 'Ada' });
    for (let outage = 0; outage < 2; outage++) {
      await server.kill();
      const answers = await Promise.all([app.me(token), app.me(token), app.ask('/up', token, 'POST')]);
      answers.forEach(expectUnavailable);
      await expect(app.sessions.create({})).rejects.toMatchObject({
        code: 'SESSION_STORE_UNAVAILABLE',
        outcomeUnknown: false,
      });
      await server.restart();
      // It came back empty, so the session is really gone: only now may it be refused.
      const back = await until(401, token);
      report('killed: served again after', back);
      expect(back).toBeLessThan(BACK_WITHIN_MS);
      const next = await app.sessions.create({ name: 'Ada' });
      expect((await app.me(next.token)).body).toMatchObject({ id: next.id });
    }
    // The near cache too: a new epoch has begun.
    await waitFor(() => app.nest.get(RedisSubscriber).live);
    const { token: last } = await app.sessions.create({});
    expect((await app.me(last)).body).toMatchObject({ source: 'cache' });
  });

  it('an app booted while Redis is down boots, answers 503, and serves within 2 s of its coming', async () => {
    await server.stop();
    const logger = new CapturingLogger();
    app = await App.start({ ...quick, redis: server.url }, logger);
    const { token } = await app.sessions.create({}).catch(() => ({ token: 'A'.repeat(44) }));
    expectUnavailable(await app.me(token));
    expect((await app.ask('/health', token)).status).toBe(200);
    expect((await app.me('malformed')).status).toBe(401); // needs no Redis
    expect(logger.matching(/^warn .*Redis does not answer yet/)).toHaveLength(1);
    await server.restart();
    const back = await until(401, token);
    report('booted without: served after', back);
    expect(back).toBeLessThan(BACK_WITHIN_MS);
    const session = await app.sessions.create({});
    expect((await app.me(session.token)).status).toBe(200);
  });

  it('copies in the near cache: void at once when the link breaks; served while Redis is merely frozen and unasked', async () => {
    app = await App.start({ ...quick, redis: server.url });
    await waitFor(() => app.nest.get(RedisSubscriber).live);
    const [{ token }, { token: other }] = [await app.sessions.create({}), await app.sessions.create({})];
    expect((await app.me(token)).body).toMatchObject({ source: 'cache' });

    // Frozen: nobody can end a session meanwhile, and nothing has been asked that went unanswered.
    await server.pause();
    expect((await app.me(token)).body).toMatchObject({ source: 'cache' });
    // A question that gets no answer breaks the link after commandTimeout, and with it the epoch.
    app.nest.get(CacheService).delete((await app.sessions.get(other))?.id ?? '');
    expectUnavailable(await app.me(other));
    await waitFor(() => !app.nest.get(RedisSubscriber).live);
    expectUnavailable(await app.me(token));
    server.resume();
    expect(await until(200, token)).toBeLessThan(BACK_WITHIN_MS);

    // Killed: both links break at once, and copies prove nothing any more.
    await waitFor(async () => ((await app.me(token)).body as { source: string }).source === 'cache');
    await server.kill();
    await waitFor(() => !app.nest.get(RedisSubscriber).live);
    expectUnavailable(await app.me(token));
  });

  it('a blackholed link (no FIN, no RST): 503 within commandTimeout, back within 2 s', async () => {
    const proxy = await TcpProxy.start({ targetPort: server.port });
    try {
      app = await App.start({ ...quick, redis: proxy.url, cache: false });
      const { token } = await app.sessions.create({});
      proxy.blackhole();
      expectUnavailable(await app.me(token));
      expectUnavailable(await app.me(token));
      proxy.resume();
      expect(await until(200, token)).toBeLessThan(BACK_WITHIN_MS);
    } finally {
      await app.nest.close();
      await proxy.close();
    }
  });

  it('Redis full (OOM): reads are served, writes get 503-worthy errors, also over a link made meanwhile', async () => {
    app = await App.start({ ...quick, redis: server.url, cache: false });
    const raw = new Redis(server.url);
    const { token } = await app.sessions.create({});
    await raw.config('SET', 'maxmemory', '1');
    try {
      expect((await app.me(token)).status).toBe(200);
      await expect(app.sessions.create({})).rejects.toMatchObject({ code: 'SESSION_STORE_UNAVAILABLE' });
      // A new link must not depend on a write either.
      await raw.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
      expect(await until(200, token)).toBeLessThan(BACK_WITHIN_MS);
    } finally {
      await raw.config('SET', 'maxmemory', '0');
      raw.disconnect();
    }
    expect((await app.sessions.create({})).isNew).toBe(true);
  });

  it('a server that becomes a replica: 503, no copy is served, back within 2 s of its being master again', async () => {
    app = await App.start({ ...quick, redis: server.url });
    const subscriber = app.nest.get(RedisSubscriber);
    await waitFor(() => subscriber.live);
    const raw = new Redis(server.url);
    const { token } = await app.sessions.create({});
    expect((await app.me(token)).body).toMatchObject({ source: 'cache' });
    const nobody = await freePort();
    await raw.call('REPLICAOF', '127.0.0.1', String(nobody));
    expectUnavailable(await app.ask('/up', token, 'POST')); // READONLY tells
    await waitFor(() => !subscriber.live);
    expectUnavailable(await app.me(token));
    expectUnavailable(await app.me(token));
    await raw.call('REPLICAOF', 'NO', 'ONE');
    raw.disconnect();
    expect(await until(200, token)).toBeLessThan(BACK_WITHIN_MS);
    await waitFor(() => subscriber.live);
    expect((await app.ask('/up', token, 'POST')).status).toBe(201);
  });

  it('a server that refuses the first command of a new link is asked again, and served by within 2 s', async () => {
    app = await App.start({ ...quick, redis: server.url, cache: false });
    const raw = new Redis(server.url);
    const { token } = await app.sessions.create({});
    // What a script that runs for seconds, a replica on its way to be master, or a full disk do: an error reply.
    await raw.call('ACL', 'SETUSER', 'default', '-get', '-set');
    await raw.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    expectUnavailable(await app.me(token));
    await raw.call('ACL', 'SETUSER', 'default', '+@all');
    raw.disconnect();
    expect(await until(200, token)).toBeLessThan(BACK_WITHIN_MS);
  });
});

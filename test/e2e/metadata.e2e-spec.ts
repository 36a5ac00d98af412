// What is kept of the request that creates a session, fields of the app's own, and the limit of sessions over HTTP.
import 'reflect-metadata';
import { Controller, Get, Inject, Module, Query } from '@nestjs/common';
import { APP_FILTER, NestFactory } from '@nestjs/core';
import { ExpressAdapter, type NestExpressApplication } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { describe, expect, it, onTestFinished } from 'vitest';
import {
  ActiveSession,
  Session,
  SessionExceptionFilter,
  SessionModule,
  SessionRegistry,
  SessionService,
  type CapturedRequest,
  type SessionMetadata,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { CookieJar } from './support/http-client.js';
import { PlainServer } from './support/plain-server.js';
import { PLATFORMS, startApp, type Data, type Platform } from './support/test-app.js';

const INTERNAL = { statusCode: 500, message: 'Internal server error' };
/** The test's own address, however the server sees it. */
const LOOPBACK = expect.stringMatching(/^(::ffff:)?127\.0\.0\.1$/);
const AGENT = { 'user-agent': 'Spec/1.0 (ä)' };
const HEADERS = { 'user-agent': 'Spec/1.0', 'x-forwarded-for': '203.0.113.9' };

/** As an app would extend `SessionMetadata`, without doing so for every other spec. */
const fields = (more: Record<string, unknown>) => more as SessionMetadata;

@Controller()
class VisitController {
  constructor(@Inject(SessionService) private readonly sessions: SessionService<Data>) {}

  /** Stored at once. */
  @Get('set')
  async set(@Session() session: ActiveSession<Data>) {
    await session.set('views', 1);
    return { id: session.id };
  }

  /** Stored when the response leaves. */
  @Get('change')
  change(@Session() session: ActiveSession<Data>) {
    session.data.views = 1;
    return { id: session.id };
  }

  @Get('login')
  async login(@Session() session: ActiveSession<Data>, @Query('user') user: string) {
    await this.sessions.login(session, user);
    return { id: session.id };
  }

  @Get('login-with')
  async loginWith(@Session() session: ActiveSession<Data>, @Query('group') groupId: string) {
    await this.sessions.login(session, 'ann', { metadata: fields({ label: 'laptop', groupId }) });
    return { id: session.id };
  }
}

const idOf = ({ body }: { body: unknown }) => (body as { id: string }).id;

const start = (platform: Platform, session: SessionModuleOptions = {}) =>
  startApp(platform, {
    session,
    controllers: [VisitController],
    providers: [{ provide: APP_FILTER, useClass: SessionExceptionFilter }],
  });

/** An app that believes the proxy in front of it. */
async function startBehindProxy(platform: Platform, session: SessionModuleOptions = {}) {
  class AppModule {}
  Module({ imports: [SessionModule.forRoot(session)], controllers: [VisitController] })(AppModule);
  const app =
    platform === 'express'
      ? await NestFactory.create<NestExpressApplication>(AppModule, new ExpressAdapter(), { logger: false })
      : await NestFactory.create(AppModule, new FastifyAdapter({ trustProxy: true }), { logger: false });
  onTestFinished(() => app.close());
  if (platform === 'express') (app as NestExpressApplication).set('trust proxy', true);
  await app.listen(0, '127.0.0.1');
  const url = (await app.getUrl()).replace('[::1]', '127.0.0.1');
  return { url, registry: app.get(SessionRegistry) };
}

describe.each(PLATFORMS)('metadata of a session on %s', (platform) => {
  it.each(['set', 'change', 'login?user=ann'])(
    'created by /%s: address and User-Agent, as the registry lists them',
    async (path) => {
      const app = await start(platform);
      const id = idOf(await app.send(`/${path}`, { headers: HEADERS }));
      // Nobody is believed about where a request comes from, unless the app trusts a proxy.
      expect((await app.registry.get(id))!.metadata).toEqual({ ip: LOOPBACK, userAgent: 'Spec/1.0' });
      expect((await app.registry.getAllSessions()).sessions).toMatchObject([
        { id, metadata: { ip: LOOPBACK, userAgent: 'Spec/1.0' } },
      ]);
    },
  );

  it('behind a proxy that the app trusts: the address is the client’s', async () => {
    const { url, registry } = await startBehindProxy(platform);
    const reply = await new CookieJar(url).ask('/set', { headers: HEADERS });
    expect((await registry.get(idOf(reply)))!.metadata).toEqual({
      ip: '203.0.113.9',
      userAgent: 'Spec/1.0',
    });
  });

  it('a User-Agent is cut at 512 characters, a claimed address at 64, and one that is missing is left out', async () => {
    const app = await start(platform);
    const long = await app.send('/set', { headers: { 'user-agent': `A${'b'.repeat(2_000)}` } });
    expect((await app.registry.get(idOf(long)))!.metadata.userAgent).toBe(`A${'b'.repeat(511)}`);
    const without = await app.sendRaw('/set', []);
    expect((await app.registry.get(idOf(without)))!.metadata).toEqual({ ip: LOOPBACK });
    const { url, registry } = await startBehindProxy(platform);
    const claimed = await new CookieJar(url).ask('/set', { headers: { 'x-forwarded-for': 'c'.repeat(500) } });
    expect((await registry.get(idOf(claimed)))!.metadata.ip?.length).toBeLessThanOrEqual(64);
  });

  it('stays as it was when the visitor signs in elsewhere or somebody else uses the token', async () => {
    const app = await start(platform);
    const client = new CookieJar(app.url);
    await client.ask('/set', { headers: { 'user-agent': 'First/1' } });
    const reply = await client.ask('/login?user=ann', { headers: { 'user-agent': 'Second/2' } });
    expect((await app.registry.get(idOf(reply)))!.metadata).toEqual({ ip: LOOPBACK, userAgent: 'First/1' });
  });

  it('captureMetadata: false keeps nothing of the request', async () => {
    const app = await start(platform, { captureMetadata: false });
    for (const path of ['/set', '/change', '/login?user=ann'])
      expect((await app.registry.get(idOf(await app.send(path, { headers: HEADERS }))))!.metadata).toEqual(
        {},
      );
  });

  it('captureMetadata as a function says what is kept; it gets headers and address', async () => {
    const seen: CapturedRequest[] = [];
    const app = await start(platform, {
      additionalFields: ['country', 'first'],
      captureMetadata: (request) => {
        seen.push(request);
        return fields({ country: request.headers['x-country'], first: true, label: undefined });
      },
    });
    const id = idOf(await app.send('/set', { headers: { 'x-country': 'AT', ...AGENT } }));
    expect((await app.registry.get(id))!.metadata).toEqual({ country: 'AT', first: true });
    expect(seen).toHaveLength(1);
    expect(seen[0]!.ip).toEqual(LOOPBACK);
  });

  it.each([
    [
      'throws',
      () => {
        throw new Error('no such country');
      },
      /no such country/,
    ],
    [
      'gives an unknown part',
      () => fields({ country: 'AT' }),
      /"metadata\.country" is not known.*additionalFields/,
    ],
    [
      'gives a part of a wrong type',
      () => fields({ label: 5 }),
      /"metadata\.label" must be a string; got number/,
    ],
    [
      'gives too long a part',
      () => fields({ label: 'x'.repeat(129) }),
      /"metadata\.label" must have at most 128/,
    ],
    ['gives null', () => null as never, /"captureMetadata" must return an object.*; got null/],
    ['gives nothing', () => undefined as never, /"captureMetadata" must return an object.*; got undefined/],
    ['gives an array', () => [] as never, /"captureMetadata" must return an object.*; got an array/],
    [
      'is async',
      (async () => fields({ label: 'phone' })) as never,
      /"captureMetadata" must return an object.*; got a promise/,
    ],
    [
      'is async and fails',
      // Nobody handles what this rejects with but the module: else the run fails.
      (() => Promise.reject(new Error('no such country'))) as never,
      /"captureMetadata" must return an object.*; got a promise/,
    ],
  ] as [string, () => SessionMetadata, RegExp][])(
    'captureMetadata that %s: 500, the log says why, and nothing is stored',
    async (_, captureMetadata, why) => {
      const app = await start(platform, { captureMetadata });
      for (const path of ['/set', '/change']) {
        const { status, body, headers } = await app.send(path, { headers: HEADERS });
        expect([status, body, headers.has('set-cookie')]).toEqual([500, INTERNAL, false]);
      }
      expect(app.logs.matching(why)).toHaveLength(1);
      expect(app.logs.matching(/could not be saved before the response/)).toHaveLength(1); // its stack is beside it
      expect(await app.registry.count()).toBe(0);
    },
  );

  it('additionalFields are set by create and login, and listed', async () => {
    const app = await start(platform, { additionalFields: ['groupId', 'beta'] });
    const created = await app.sessions.create({} as Data, {
      userId: 'bob',
      metadata: fields({ label: 'phone', groupId: 111, beta: null }),
    });
    expect(created.metadata).toEqual({ label: 'phone', groupId: 111, beta: null });
    const id = idOf(await app.send('/login-with?group=g1', { headers: HEADERS }));
    const { sessions } = await app.registry.getAllSessions();
    expect(Object.fromEntries(sessions.map((session) => [session.id, session.metadata]))).toEqual({
      [created.id]: { label: 'phone', groupId: 111, beta: null },
      [id]: { label: 'laptop', groupId: 'g1' },
    });
  });

  it('a field that is not among additionalFields is refused, and named, and so is a value that is no plain one', async () => {
    const app = await start(platform, { additionalFields: ['groupId'] });
    const create = (metadata: SessionMetadata) => app.sessions.create({} as Data, { metadata });
    await expect(create(fields({ group: 1 }))).rejects.toMatchObject({ argument: 'metadata.group' });
    for (const groupId of [{}, [1], new Date(), 5n, NaN, Infinity, 'x'.repeat(257), () => 1, Symbol('x')])
      await expect(create(fields({ groupId }))).rejects.toMatchObject({ argument: 'metadata.groupId' });
    for (const groupId of ['', 'x'.repeat(256), 0, -1.5, false, null])
      expect((await create(fields({ groupId }))).metadata).toEqual({ groupId });
    const bare = await start(platform);
    expect(await bare.send('/login-with?group=g1')).toMatchObject({ status: 500, body: INTERNAL });
    expect(bare.logs.matching(/"metadata\.groupId" is not known/)).toHaveLength(1);
    expect(await bare.registry.count()).toBe(0);
  });

  it('a user’s session too many, with onLimit reject: 409, and the visitor stays who they were', async () => {
    const app = await start(platform, { maxSessionsPerUser: 1, onLimit: 'reject' });
    const first = await app.sessions.create({} as Data, { userId: 'ann' });
    const client = new CookieJar(app.url);
    await client.ask('/set');
    const token = client.value();
    const reply = await client.ask('/login?user=ann');
    expect([reply.status, reply.body, reply.cookies]).toEqual([
      409,
      { statusCode: 409, message: 'Too many sessions', error: 'Conflict' },
      [],
    ]);
    const kept = (await app.sessions.get(token, { fresh: true }))!;
    expect([kept.userId, kept.data]).toEqual([null, { views: 1 }]);
    expect(await app.registry.exists(first.id)).toBe(true);
    expect(await app.send('/login?user=ann')).toMatchObject({ status: 409 }); // without a session of one's own
    expect(app.logs.lines.join('\n')).not.toContain(token);
    await app.registry.kill(first.id);
    expect((await client.ask('/login?user=ann')).status).toBe(200);
    expect(await app.registry.countForUser('ann')).toBe(1);
  });

  it('with onLimit evict-oldest the login goes through, and the oldest session of the user has ended', async () => {
    const app = await start(platform, { maxSessionsPerUser: 1 });
    const first = await app.sessions.create({} as Data, { userId: 'ann' });
    const reply = await app.send('/login?user=ann');
    expect(reply.status).toBe(200);
    expect(await app.sessions.get(first.token)).toBeNull();
    expect((await app.registry.getUserSessions('ann')).map(({ id }) => id)).toEqual([idOf(reply)]);
  });
});

describe('metadata of a session of attachSession()', () => {
  const visit = async (session?: SessionModuleOptions) => {
    const server = await PlainServer.start('memory', { ...session, cookie: { secure: false } });
    const client = server.client();
    await server.run(
      client,
      async (fieldSession, response) => {
        await fieldSession.set('views', 1);
        response.end();
      },
      { headers: HEADERS },
    );
    return (await server.sessions.get(client.value()))!.metadata;
  };

  it('is address and User-Agent', async () => {
    expect(await visit()).toEqual({ ip: LOOPBACK, userAgent: 'Spec/1.0' });
  });

  it('is nothing with captureMetadata: false', async () => {
    expect(await visit({ captureMetadata: false })).toEqual({});
  });

  it('is what captureMetadata gives, of fields of the app’s own too', async () => {
    const captureMetadata = ({ headers }: CapturedRequest) => fields({ via: headers['x-forwarded-for'] });
    expect(await visit({ captureMetadata, additionalFields: ['via'] })).toEqual({ via: '203.0.113.9' });
  });
});

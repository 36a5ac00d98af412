// The sample's path in a Nest 11 CommonJS app: sign in, a guarded route, a counter kept, ended by the registry.
import 'reflect-metadata';
import assert from 'node:assert/strict';
import { Body, Controller, Get, Module, Post, UseGuards } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ScheduleModule } from '@nestjs/schedule';
import {
  ActiveSession,
  PublicSession,
  Session,
  SessionGuard,
  SessionModule,
  SessionRegistry,
  SessionService,
} from 'nestjs-sessionkit';
import { startRedis } from './redis-server';

// How an app types its sessions' data.
declare module 'nestjs-sessionkit' {
  interface SessionData {
    views?: number;
  }
}

@Controller()
@UseGuards(SessionGuard)
class AppController {
  constructor(
    private readonly sessions: SessionService,
    private readonly registry: SessionRegistry,
  ) {}

  @Post('login')
  @PublicSession()
  async login(@Body() body: { name: string }): Promise<{ token: string; id: string }> {
    const session = await this.sessions.create({ views: 0 }, { userId: body.name });
    return { token: session.token, id: session.id };
  }

  @Get('me')
  async me(@Session() session: ActiveSession): Promise<{ user: string | null; views: number }> {
    const current = await this.sessions.update(session.token, (data) => ({
      ...data,
      views: (data.views ?? 0) + 1,
    }));
    return { user: current?.userId ?? null, views: current?.data.views ?? 0 };
  }

  @Get('mine')
  async mine(@Session() session: ActiveSession): Promise<string[]> {
    return (await this.registry.getUserSessions(session.userId ?? '')).map((each) => each.id);
  }
}

const loadsIoredis = (): boolean =>
  Object.keys(require.cache).some((file) => /[\\/]node_modules[\\/]ioredis[\\/]/.test(file));

async function walk(redis: string | undefined): Promise<void> {
  @Module({
    imports: [
      ScheduleModule.forRoot(),
      SessionModule.forRootAsync({
        useFactory: () => ({ ...(redis === undefined ? {} : { redis }), transport: ['bearer' as const] }),
      }),
    ],
    controllers: [AppController],
  })
  class AppModule {}

  const app = await NestFactory.create(AppModule, { logger: ['error', 'warn'], abortOnError: false });
  app.enableShutdownHooks();
  await app.listen(0, '127.0.0.1');
  const url = await app.getUrl();
  const get = (path: string, token?: string): Promise<Response> =>
    fetch(url + path, { headers: token === undefined ? {} : { authorization: `Bearer ${token}` } });
  const login = async (name: string): Promise<{ token: string; id: string }> => {
    const body = JSON.stringify({ name });
    const answer = await fetch(`${url}/login`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    });
    assert.equal(answer.status, 201);
    return (await answer.json()) as { token: string; id: string };
  };

  assert.equal((await get('/me')).status, 401, 'no token');
  assert.equal((await get('/me', 'nonsense')).status, 401, 'a token of nobody');
  const one = await login('ann');
  const two = await login('ann');
  const other = await login('bob');
  for (const views of [1, 2, 3]) {
    const answer = await get('/me', one.token);
    assert.equal(answer.status, 200);
    assert.deepEqual(await answer.json(), { user: 'ann', views });
  }
  assert.deepEqual(
    ((await (await get('/mine', one.token)).json()) as string[]).sort(),
    [one.id, two.id].sort(),
  );

  const registry = app.get(SessionRegistry);
  await registry.kill(one.id);
  assert.equal((await get('/me', one.token)).status, 401, 'killed by id');
  assert.equal((await get('/me', two.token)).status, 200, 'the other session of the user lives');
  await registry.killUser('ann');
  assert.equal((await get('/me', two.token)).status, 401, 'killed with its user');
  assert.equal((await get('/me', other.token)).status, 200, 'another user is left alone');
  await app.close();
}

async function main(): Promise<void> {
  // The ES module is what Node must choose for require() too; index.cjs is for Jest.
  assert.match(require.resolve('nestjs-sessionkit'), /[\\/]dist[\\/]index\.js$/);
  assert.equal(
    ((await import('nestjs-sessionkit')) as object as { SessionService: unknown }).SessionService,
    SessionService,
  );

  if (process.argv[2] === 'redis') {
    const server = await startRedis();
    try {
      await walk(server.url);
    } finally {
      await server.stop();
    }
    assert.ok(loadsIoredis());
  } else {
    await walk(undefined);
    assert.ok(!loadsIoredis(), 'ioredis was loaded although no redis option was given');
  }
  console.log(`nest11: the sample's path holds on ${process.argv[2]}`);
}

// No process.exit: an app that was closed must let the process end by itself (the runner allows a minute).
main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});

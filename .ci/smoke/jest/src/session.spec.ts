// A Nest 11 user's test, with the Jest settings that `nest new` 11 wrote and not one more.
import { Body, Controller, Get, type INestApplication, Module, Post } from '@nestjs/common';
import { APP_GUARD } from '@nestjs/core';
import { Test } from '@nestjs/testing';
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

declare module 'nestjs-sessionkit' {
  interface SessionData {
    colour?: string;
  }
}

@Controller()
class AppController {
  constructor(private readonly sessions: SessionService) {}

  @Post('login')
  @PublicSession()
  async login(@Body() body: { name: string }): Promise<{ token: string; id: string }> {
    const session = await this.sessions.create({ colour: 'red' }, { userId: body.name });
    return { token: session.token, id: session.id };
  }

  @Get('me')
  me(@Session() session: ActiveSession): { user: string | null; colour: string | undefined } {
    return { user: session.userId, colour: session.data.colour };
  }
}

test('Jest picks the CommonJS build', () => {
  expect(require.resolve('nestjs-sessionkit')).toMatch(/[\\/]dist[\\/]index\.cjs$/);
});

describe.each(['memory', 'redis'])('on the %s store', (store) => {
  let app: INestApplication;
  let server: { url: string; stop: () => Promise<void> } | undefined;

  beforeAll(async () => {
    server = store === 'redis' ? await startRedis() : undefined;
    @Module({
      imports: [SessionModule.forRoot({ ...(server && { redis: server.url }), transport: ['bearer'] })],
      controllers: [AppController],
      providers: [{ provide: APP_GUARD, useClass: SessionGuard }],
    })
    class AppModule {}
    app = (await Test.createTestingModule({ imports: [AppModule] }).compile()).createNestApplication();
    await app.listen(0, '127.0.0.1');
  });

  afterAll(async () => {
    await app?.close();
    await server?.stop();
  });

  test('a signed-in user is served until the session is killed', async () => {
    const url = await app.getUrl();
    const me = (token: string): Promise<Response> =>
      fetch(`${url}/me`, { headers: { authorization: `Bearer ${token}` } });
    const body = JSON.stringify({ name: 'ann' });
    const login = await fetch(`${url}/login`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    });
    expect(login.status).toBe(201);
    const { token, id } = (await login.json()) as { token: string; id: string };

    expect((await fetch(`${url}/me`)).status).toBe(401);
    const answer = await me(token);
    expect(answer.status).toBe(200);
    expect(await answer.json()).toEqual({ user: 'ann', colour: 'red' });

    await app.get(SessionRegistry).kill(id);
    expect((await me(token)).status).toBe(401);
  });
});

// A process of a deployment with a web server, whose clock may be wrong: the built package, driven over IPC and by HTTP.
// See ../wall-clock.integration-spec.ts.
import 'reflect-metadata';
import { Controller, Get, Module, Post, UseGuards } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import {
  CsrfGuard,
  RecentLogin,
  RedisSubscriber,
  Session,
  SessionEvents,
  SessionGuard,
  SessionModule,
  SessionRegistry,
  SessionService,
} from 'nestjs-sessionkit';
import { emit, serve } from '../../support/worker-rpc.mjs';

let app;
let sessions;
let release = () => undefined;
let held;

class AppController {
  async login(session) {
    await sessions.login(session, 'ada');
    return session.csrfToken();
  }
  look(session) {
    return { id: session.id };
  }
  recent(session) {
    return { id: session.id };
  }
  write(session) {
    return { id: session.id };
  }
  /** Answers when the parent says so; what the store has to say has been heard before. */
  async slow(session) {
    await session.touch();
    const released = new Promise((resolve) => (release = resolve));
    emit('slow');
    await released;
    return { id: session.id };
  }
}

/** What `@Get('look')` and the like do; plain JavaScript has no decorators. */
function route(name, ...decorators) {
  const { prototype } = AppController;
  const method = Object.getOwnPropertyDescriptor(prototype, name);
  for (const decorate of decorators) decorate(prototype, name, method);
  Session()(prototype, name, 0);
}

Controller()(AppController);
route('login', Post('login'));
route('look', Get('look'), UseGuards(SessionGuard));
route('recent', Get('recent'), UseGuards(SessionGuard), RecentLogin('2s'));
route('write', Post('write'), UseGuards(SessionGuard, CsrfGuard));
route('slow', Get('slow'), UseGuards(SessionGuard));

const show = (session) =>
  session && {
    id: session.id,
    token: session.token,
    source: session.source,
    valid: session.valid,
    createdAt: session.createdAt,
    lastAccess: session.lastAccess,
    expiresAt: session.expiresAt,
    expiresIn: session.expiresIn,
    idle: session.idle,
  };

serve({
  /** Resolves to its address. */
  async boot(options) {
    class AppModule {}
    Module({ imports: [SessionModule.forRoot(options)], controllers: [AppController] })(AppModule);
    app = await NestFactory.create(AppModule, new ExpressAdapter(), {
      logger: ['error', 'fatal'],
      abortOnError: false,
      forceCloseConnections: true,
    });
    sessions = app.get(SessionService);
    app.get(SessionEvents).on('expired', ({ id }) => emit('expired', { id }));
    await app.listen(0, '127.0.0.1');
    return `http://127.0.0.1:${app.getHttpServer().address().port}`;
  },
  close: () => app.close(),
  wall: () => Date.now(),
  state() {
    const { live, epoch, counts } = app.get(RedisSubscriber);
    return { live, epoch, epochs: counts.epochs, heartbeats: counts.heartbeats };
  },

  create: async (data, options) => show(await sessions.create(data, options)),
  get: async (token, options) => show(await sessions.get(token, options)),
  update: async (token, patch, options) => show(await sessions.update(token, patch, options)),
  touch: async (token) => show(await sessions.touch(token)),
  regenerate: async (token) => show(await sessions.regenerate(token)),
  destroy: (token) => sessions.destroy(token),
  async hold(token) {
    held = await sessions.get(token);
  },
  held: () => show(held),

  now: () => app.get(SessionRegistry).now(),
  ofUser: async (userId) => (await app.get(SessionRegistry).getUserSessions(userId)).map(({ id }) => id),
  async active(activeWithin) {
    const page = await app.get(SessionRegistry).getAllSessions({ activeWithin });
    return page.sessions.map(({ id }) => id).sort();
  },
  shown: async (id) => app.get(SessionRegistry).get(id),
  release: () => release(),
});

// The app of disk-worker.mjs.
import 'reflect-metadata';
import { Controller, Get, Module, Post } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { SessionModule, Session, SessionService } from 'nestjs-sessionkit';

let sessions;

class AppController {
  me(session) {
    return { userId: session.userId };
  }

  async login(session) {
    return { userId: (await sessions.login(session, 'ada')).userId };
  }
}

function route(name, decorate) {
  const { prototype } = AppController;
  decorate(prototype, name, Object.getOwnPropertyDescriptor(prototype, name));
  Session()(prototype, name, 0);
}

Controller()(AppController);
route('me', Get('me'));
route('login', Post('login'));

/** Listens on a free port of 127.0.0.1. */
export async function startApp(store, options) {
  class AppModule {}
  Module({ imports: [SessionModule.forRoot({ store, ...options })], controllers: [AppController] })(
    AppModule,
  );
  const app = await NestFactory.create(AppModule, new ExpressAdapter(), {
    logger: ['error'],
    abortOnError: false,
  });
  sessions = app.get(SessionService);
  await app.listen(0, '127.0.0.1');
  return { app, sessions };
}

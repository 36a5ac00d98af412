// A process of a deployment with a web server: the built package in a small app. See ../read-your-writes.e2e-spec.ts.
import 'reflect-metadata';
import { Controller, Get, Module, Param, Post, UseGuards } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import {
  RedisSubscriber,
  Session,
  SessionGuard,
  SessionModule,
  SessionService,
  StrictSession,
} from 'nestjs-sessionkit';
import { serve } from '../../support/worker-rpc.mjs';

const ADAPTERS = { express: ExpressAdapter, fastify: FastifyAdapter };

let app;

const show = (session) => ({ round: session.data.round, source: session.source });

class AppController {
  look(session) {
    return show(session);
  }

  strict(session) {
    return show(session);
  }

  guarded(session) {
    return show(session);
  }

  write(session, round) {
    session.data.round = Number(round);
    return { round: session.data.round };
  }

  async login(session) {
    await app.get(SessionService).login(session, 'ada');
    return show(session);
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
route('look', Get('look'));
route('strict', Get('strict'), StrictSession());
route('guarded', Get('guarded'), UseGuards(SessionGuard));
route('write', Post('write/:round'), (prototype, name) => Param('round')(prototype, name, 1));
route('login', Post('login'));

serve({
  /** Resolves to its address. */
  async boot(platform, options) {
    class AppModule {}
    Module({ imports: [SessionModule.forRoot(options)], controllers: [AppController] })(AppModule);
    app = await NestFactory.create(AppModule, new ADAPTERS[platform](), {
      logger: ['warn', 'error', 'fatal'],
      abortOnError: false,
      forceCloseConnections: true,
    });
    await app.listen(0, '127.0.0.1');
    return `http://127.0.0.1:${app.getHttpServer().address().port}`;
  },
  /** Whether its near cache may be used. */
  live: () => app.get(RedisSubscriber).live,
  close: () => app.close(),
});

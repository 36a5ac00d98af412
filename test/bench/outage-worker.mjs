// The process of one app whose Redis can be made silent by a proxy in front of it. Decorators are called by hand.
import 'reflect-metadata';
import { connect, createServer } from 'node:net';
import { Controller, Get, UseGuards } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import {
  OnStoreUnavailable,
  Session,
  SessionGuard,
  SessionModule,
  SessionService,
  SESSION_STORE,
} from 'nestjs-sessionkit';
import { serve } from '../support/worker-rpc.mjs';
import { endWithParent } from './http/end-with-parent.mjs';

let app;
let proxy;
endWithParent();

serve({
  /** Resolves to the port and the token of a session. */
  async open({ platform, url, prefix, commandTimeoutMs }) {
    proxy = await startProxy(Number(new URL(url).port));
    class BenchModule {}
    app = await NestFactory.create(
      {
        module: BenchModule,
        imports: [
          SessionModule.forRoot({
            redis: `redis://127.0.0.1:${proxy.port}`,
            keyPrefix: prefix,
            commandTimeout: `${commandTimeoutMs}ms`,
            staleFor: '10m',
            cookie: { name: 'sid', secure: false },
          }),
        ],
        controllers: [makeController()],
      },
      await adapterOf(platform),
      { logger: ['error', 'fatal'], abortOnError: false, forceCloseConnections: true },
    );
    await app.listen(0, '127.0.0.1');
    const { token } = await app.get(SessionService).create({ name: 'Ada' });
    return { port: app.getHttpServer().address().port, token };
  },
  /** From now on Redis is silent: what is sent to it is not answered, and no link breaks. */
  silence() {
    proxy.silence();
  },
  breaker() {
    return app.get(SESSION_STORE).breaker;
  },
  async close() {
    proxy.close();
    await app.close();
  },
});

function makeController() {
  class BenchController {
    me(session) {
      return { name: session.get('name') };
    }
    stale(session) {
      return { name: session.get('name') };
    }
    open() {
      return { name: 'Ada' };
    }
  }
  const { prototype } = BenchController;
  const route = (method, ...decorators) => {
    const descriptor = Object.getOwnPropertyDescriptor(prototype, method);
    for (const decorator of [Get(method), ...decorators]) decorator(prototype, method, descriptor);
  };
  Session()(prototype, 'me', 0);
  Session()(prototype, 'stale', 0);
  route('me', UseGuards(SessionGuard));
  route('stale', UseGuards(SessionGuard), OnStoreUnavailable('stale'));
  route('open');
  Controller()(BenchController);
  return BenchController;
}

async function adapterOf(platform) {
  if (platform === 'express') return new (await import('@nestjs/platform-express')).ExpressAdapter();
  return new (await import('@nestjs/platform-fastify')).FastifyAdapter();
}

async function startProxy(port) {
  const sockets = new Set();
  let silent = false;
  const server = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ]) {
      sockets.add(from);
      from.on('data', (chunk) => void (silent || to.write(chunk)));
      from.on('error', () => undefined);
      from.on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: server.address().port,
    silence: () => void (silent = true),
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

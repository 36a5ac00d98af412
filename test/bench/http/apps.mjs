// The apps. Each is a Nest app of one controller: `POST /sign-in` makes a session with the given data and sets its
// cookie, `GET /me` is what is measured. Decorators are called by hand: this file runs without a build.
import 'reflect-metadata';
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import {
  Controller,
  Get,
  Session as NestSession,
  Post,
  Res,
  UnauthorizedException,
  UseGuards,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';

const COOKIE = 'sid';
const IDLE_SECONDS = 1_800;
const SECRET = 'a secret of the benchmark, of more than 32 characters';

/**
 * What a kind of app is made of; `setUp` comes before listening, `ready` after it, `close` after the app has closed.
 *
 * @typedef {object} Parts
 * @property {Function} controller
 * @property {unknown[]} [imports]
 * @property {(app: import('@nestjs/common').INestApplication) => unknown} [setUp]
 * @property {(app: import('@nestjs/common').INestApplication) => unknown} [ready]
 * @property {() => unknown} [close]
 * @property {(app: import('@nestjs/common').INestApplication) => unknown} [cool] forgets what it holds of the store
 */

/** @type {Record<string, (env: { platform: string, url: string, prefix: string, data: object }) => Parts | Promise<Parts>>} */
const KINDS = {
  bare,
  map,
  ours: (env) => ours(env, { guarded: true }),
  'ours-unguarded': (env) => ours(env, {}),
  'ours-write': (env) => ours(env, { guarded: true, writes: true }),
  session: (env) => others(env, {}),
  'session-fixed': (env) => others(env, { rolling: false }),
  'session-write': (env) => others(env, { writes: true }),
};

/** Starts the app on a free port of this machine. */
export async function openApp({ kind, ...env }) {
  const { controller, imports = [], setUp, ready, close, cool } = await KINDS[kind](env);
  class BenchModule {}
  const app = await NestFactory.create(
    { module: BenchModule, imports, controllers: [controller] },
    await adapterOf(env.platform),
    { logger: ['error', 'fatal'], abortOnError: false, forceCloseConnections: true },
  );
  await setUp?.(app);
  await app.listen(0, '127.0.0.1');
  await ready?.(app);
  return {
    port: app.getHttpServer().address().port,
    cool: () => cool?.(app),
    async close() {
      await app.close();
      await close?.();
    },
  };
}

async function adapterOf(platform) {
  if (platform === 'express') return new (await import('@nestjs/platform-express')).ExpressAdapter();
  return new (await import('@nestjs/platform-fastify')).FastifyAdapter();
}

function makeController({ signIn, signInParams, me, meParams = [], guards = [] }) {
  class BenchController {}
  const { prototype } = BenchController;
  Object.assign(prototype, { signIn, me });
  decorate(prototype, 'signIn', [Post('sign-in')], signInParams);
  decorate(prototype, 'me', [Get('me'), ...guards.map((guard) => UseGuards(guard))], meParams);
  Controller()(BenchController);
  return BenchController;
}

function decorate(prototype, method, decorators, params) {
  const descriptor = Object.getOwnPropertyDescriptor(prototype, method);
  params.forEach((param, index) => param(prototype, method, index));
  for (const decorator of decorators) decorator(prototype, method, descriptor);
}

// --- what the others are measured against -----------------------------------------------------------------------------

function bare({ data: { name } }) {
  return {
    controller: makeController({
      signIn: (response) => void setCookie(response, newToken()),
      signInParams: [Res({ passthrough: true })],
      me: () => ({ name }),
    }),
  };
}

function map({ platform, data }) {
  const sessions = new Map();
  class MapGuard {
    canActivate(context) {
      const request = context.getArgByIndex(0);
      const session = sessions.get(tokenOf(request.headers.cookie));
      if (session === undefined) throw new UnauthorizedException();
      request.session = session;
      return true;
    }
  }
  const signIn = (response) => {
    const token = newToken();
    sessions.set(token, { ...data });
    setCookie(response, token);
  };
  return {
    controller: makeController({
      signIn,
      signInParams: [Res({ passthrough: true })],
      me: (session) => ({ name: session.name }),
      meParams: [NestSession()],
      guards: [MapGuard],
    }),
    setUp(app) {
      if (platform === 'fastify') app.getHttpAdapter().getInstance().decorateRequest('session', null);
    },
  };
}

const newToken = () => randomBytes(33).toString('base64url');

/** Both platforms' responses have `header`. */
const setCookie = (response, token) => response.header('set-cookie', `${COOKIE}=${token}; Path=/; HttpOnly`);

function tokenOf(header) {
  const start = header.indexOf(`${COOKIE}=`);
  if (start > 0 && header[start - 1] !== ' ') throw new Error('no parser for other cookies of that ending');
  const end = header.indexOf(';', start);
  return header.slice(start + COOKIE.length + 1, end === -1 ? header.length : end);
}

// --- ours ---------------------------------------------------------------------------------------------------------------

async function ours({ url, prefix, data }, { guarded = false, writes = false }) {
  const { CacheService, RedisSubscriber, Session, SessionGuard, SessionModule } =
    await import('nestjs-sessionkit');
  const options = {
    redis: url,
    keyPrefix: prefix,
    sweepInterval: '1h', // its commands are not the requests'
    idleTimeout: IDLE_SECONDS * 1_000,
    cookie: { name: COOKIE, secure: false },
  };
  return {
    imports: [SessionModule.forRoot(options)],
    controller: makeController({
      signIn: (session) => void Object.assign(session.data, data),
      signInParams: [Session()],
      me: writes
        ? (session) => ({ views: (session.data.views = (session.data.views ?? 0) + 1) })
        : (session) => ({ name: session.data.name }),
      meParams: [Session()],
      guards: guarded ? [SessionGuard] : [],
    }),
    cool: (app) => app.get(CacheService).clear(),
    async ready(app) {
      const subscriber = app.get(RedisSubscriber);
      for (let waited = 0; subscriber.state !== 'live'; waited += 10) {
        if (waited >= 5_000) throw new Error(`the near cache does not become live: ${subscriber.state}`);
        await delay(10);
      }
    },
  };
}

// --- express-session, @fastify/session ----------------------------------------------------------------------------------

async function others({ platform, url, prefix, data }, { rolling, writes = false }) {
  const { createClient } = await import('redis');
  const { RedisStore } = await import('connect-redis');
  const client = createClient({ url });
  client.on('error', (error) => console.error(error));
  await client.connect();
  const options = {
    secret: SECRET,
    store: new RedisStore({ client, prefix, ttl: IDLE_SECONDS }),
    saveUninitialized: false,
    cookie: { secure: false },
    ...(rolling !== undefined && { rolling }),
  };
  return {
    controller: makeController({
      signIn: (session) => void Object.assign(session, data),
      signInParams: [NestSession()],
      me: writes
        ? (session) => ({ views: (session.views = (session.views ?? 0) + 1) })
        : (session) => ({ name: session.name }),
      meParams: [NestSession()],
    }),
    async setUp(app) {
      if (platform === 'express') {
        const { default: session } = await import('express-session');
        app.use(session({ ...options, name: COOKIE, resave: false }));
      } else {
        // Their default is rolling: true. Without it a session that is used is not prolonged in the store.
        await app.register(await import('@fastify/cookie'));
        await app.register(await import('@fastify/session'), { ...options, cookieName: COOKIE });
      }
    },
    close: () => client.close(),
  };
}

// A process of a deployment: the built package, driven over IPC. See ../session-node.ts.
import { setTimeout as delay } from 'node:timers/promises';
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import {
  CacheService,
  RedisSubscriber,
  SessionModule,
  SessionRegistry,
  SessionService,
} from 'nestjs-sessionkit';
import { serve } from '../../support/worker-rpc.mjs';

let app;
let sessions;
let registry;
let subscriber;
let cache;
let incrementing;
const held = new Map();

/** Milliseconds on a clock that all processes of this machine share, with microseconds. */
const now = () => performance.timeOrigin + performance.now();

/** 'ok' or the error's code, for outcomes that are compared. */
async function outcome(promise) {
  try {
    await promise;
    return 'ok';
  } catch (error) {
    if (typeof error.code !== 'string') throw error;
    return error.outcomeUnknown === true ? 'unknown' : error.code;
  }
}

async function until(condition, timeoutMs = 5000) {
  const deadline = now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (now() > deadline) throw new Error(`not within ${timeoutMs} ms`);
    await delay(1);
  }
}

const show = (session) =>
  session && { id: session.id, source: session.source, data: session.data, lastAccess: session.lastAccess };

const increment = (token) => sessions.update(token, (data) => ({ ...data, count: (data.count ?? 0) + 1 }));

serve({
  async boot(options) {
    app = await NestFactory.createApplicationContext(SessionModule.forRoot(options), {
      logger: false,
      abortOnError: false,
    });
    sessions = app.get(SessionService);
    registry = app.get(SessionRegistry);
    subscriber = app.get(RedisSubscriber);
    cache = app.get(CacheService);
    if (options.redis !== undefined && options.cache !== false) await until(() => subscriber.live);
  },
  close: () => app.close(),

  async create(data, options) {
    const session = await sessions.create(data, options);
    return { token: session.token, id: session.id };
  },
  get: async (token) => show(await sessions.get(token)),
  async update(token, patch) {
    const begun = now();
    await sessions.update(token, patch);
    return begun;
  },
  async destroy(token) {
    const begun = now();
    const ended = await sessions.destroy(token);
    return { begun, ended };
  },
  destroyed: async (token) => sessions.destroy(token),
  touch: async (token) => show(await sessions.touch(token)),
  kill: (id) => registry.kill(id),
  killUser: (userId, options) => registry.killUser(userId, options),
  userSessions: async (userId) => (await registry.getUserSessions(userId)).map(({ id }) => id),
  async regenerate(token) {
    let next = null;
    const result = await outcome(sessions.regenerate(token).then((session) => (next = session.token)));
    return { result, token: next };
  },
  stats: () => ({ ...cache.stats(), state: subscriber.state, epoch: subscriber.epoch, ...subscriber.counts }),

  /** Resolves to the moment at which a `get` first shows this value. */
  async seen(token, field, value) {
    await until(async () => (await sessions.get(token))?.data[field] === value);
    return now();
  },
  /** Resolves to the moment at which a `get` first gives null. */
  async refused(token) {
    await until(async () => (await sessions.get(token)) === null);
    return now();
  },

  /** Adds 1 to `count` so many times, all at once. */
  async increment(token, times) {
    await Promise.all(Array.from({ length: times }, () => increment(token)));
  },
  /** Adds 1 again and again with pauses of up to `pauseMs`, until `stopIncrementing`. */
  startIncrementing(token, pauseMs) {
    const state = { running: true, count: 0, done: undefined };
    state.done = (async () => {
      while (state.running) {
        await increment(token);
        state.count++;
        await delay(Math.random() * pauseMs); // the pace of the load, nothing is waited for
      }
    })();
    incrementing = state;
  },
  /** Resolves to the number of acknowledged ones; every one must have been. */
  async stopIncrementing() {
    incrementing.running = false;
    await incrementing.done;
    return incrementing.count;
  },

  /** Reads sessions and keeps them, as requests do while they run. */
  async hold(tokens) {
    for (const token of tokens) held.set(token, await sessions.get(token));
  },
  /** Changes one field of a held session and saves it. */
  async saveHeld(token, field, value) {
    const session = held.get(token);
    session.data[field] = value;
    return outcome(session.save());
  },
  release: () => held.clear(),
});

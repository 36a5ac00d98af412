// A process that signs users in and out, sweeps, and is killed: the built package, driven over IPC. What it was told of
// is written to a file at once, so that it outlives a SIGKILL. See ../registry-rig.ts.
import { openSync, writeSync } from 'node:fs';
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import {
  RedisSubscriber,
  SESSION_STORE,
  SessionEvents,
  SessionModule,
  SessionRegistry,
  SessionService,
} from 'nestjs-sessionkit';
import { serve } from '../../support/worker-rpc.mjs';

let app;
let sessions;
let registry;
let store;

/** 'ok' or the error's code. */
async function outcome(promise) {
  try {
    await promise;
    return 'ok';
  } catch (error) {
    if (typeof error.code !== 'string') throw error;
    return error.code;
  }
}

const range = (count) => Array.from({ length: count }, (_, index) => index);

serve({
  /** `log`: the file that gets a line of JSON for each session that expired here. */
  async boot(options, log) {
    app = await NestFactory.createApplicationContext(SessionModule.forRoot(options), {
      logger: false,
      abortOnError: false,
    });
    sessions = app.get(SessionService);
    registry = app.get(SessionRegistry);
    store = app.get(SESSION_STORE);
    if (log !== undefined) {
      const file = openSync(log, 'a');
      app.get(SessionEvents).on('expired', (told) => writeSync(file, `${JSON.stringify(told)}\n`));
    }
    const subscriber = app.get(RedisSubscriber);
    if (options.cache !== false) while (!subscriber.live) await new Promise((done) => setTimeout(done, 2));
  },
  close: () => app.close(),

  /** Signs a user in so many times, at most `atOnce` at a time. */
  async logins(userId, times, atOnce) {
    const made = [];
    const refused = [];
    let left = times;
    await Promise.all(
      range(atOnce).map(async () => {
        while (left-- > 0) {
          const result = await outcome(
            sessions.create({}, { userId }).then(({ id, token }) => made.push({ id, token })),
          );
          if (result !== 'ok') refused.push(result);
        }
      }),
    );
    return { made, refused };
  },
  /** Makes sessions `from` to `to`, each of a user of its own, labelled with its number. */
  async fill(from, to, options) {
    const tokens = [];
    for (let n = from; n < to; n += 100)
      await Promise.all(
        range(Math.min(100, to - n)).map(async (i) => {
          const own = { userId: `user-${n + i}`, metadata: { label: `${n + i}` } };
          tokens.push((await sessions.create({}, { ...own, ...options })).token);
        }),
      );
    return tokens;
  },
  /** Which of these tokens lead to a session. */
  async alive(tokens) {
    const found = await Promise.all(tokens.map((token) => sessions.get(token)));
    return tokens.filter((_, index) => found[index] !== null);
  },
  killUser: (userId) => registry.killUser(userId),

  /**
   * For each user at once: replaces the token of their first session, saves the second, touches the third, replaces it
   * too and then saves it, and signs in once more.
   */
  async churn(users) {
    return Promise.all(
      users.map(async ({ userId, tokens }) => {
        const successors = [];
        const logins = [];
        const [first, second, third] = tokens;
        const replace = (token) =>
          outcome(
            sessions.regenerate(token).then((next) => {
              successors.push(next.token);
              return outcome(sessions.update(next.token, { again: true }));
            }),
          );
        const results = await Promise.all([
          replace(first),
          outcome(sessions.update(second, (data) => ({ ...data, saved: true }))),
          outcome(sessions.update(second, { savedTwice: true })),
          outcome(sessions.touch(third)).then(() => replace(third)),
          outcome(sessions.create({}, { userId }).then(({ token }) => logins.push(token))),
        ]);
        return { successors, logins, results };
      }),
    );
  },

  /** Signs these visitors in, five at a time, and dies at one of the steps of that. */
  async dieInLogin(tokens, step, nth) {
    let count = 0;
    const die = (here) => {
      if (here === step && ++count === nth) process.kill(process.pid, 'SIGKILL');
    };
    const move = store.move.bind(store);
    store.move = async (...args) => {
      die('before');
      const result = await move(...args);
      die('moved');
      return result;
    };
    const create = store.create.bind(store);
    store.create = async (...args) => {
      die('marked');
      const result = await create(...args);
      die('created');
      return result;
    };
    const left = [...tokens.entries()];
    await Promise.all(
      range(5).map(async () => {
        for (let next = left.shift(); next !== undefined; next = left.shift())
          await sessions.regenerate(next[1], { userId: `user-${next[0]}` });
      }),
    );
  },
});

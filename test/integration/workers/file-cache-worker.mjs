// A process with a file cache: the built package, driven over IPC. See ../file-cache.integration-spec.ts.
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import {
  CacheService,
  RedisSubscriber,
  SessionEvents,
  SessionModule,
  SessionService,
} from 'nestjs-sessionkit';
import { emit, serve } from '../../support/worker-rpc.mjs';

let app;
let sessions;
let cache;
const errors = [];

/** What is stored under number `n`: long enough that a file takes several pages. */
const valueOf = (n) => `${n}:`.padEnd(20_000, String(n));

async function until(condition) {
  const deadline = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('not within 10 s');
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

serve({
  async boot(options) {
    app = await NestFactory.createApplicationContext(SessionModule.forRoot(options), {
      logger: false,
      abortOnError: false,
    });
    sessions = app.get(SessionService);
    cache = app.get(CacheService);
    app.get(SessionEvents).on('cacheError', (error) => errors.push(error));
    await until(() => app.get(RedisSubscriber).live);
  },
  close: () => app.close(),

  /** Makes sessions `from` to `to`, telling of each; several at once, so that many files are being written. */
  async create(from, to) {
    for (let n = from; n < to; n += 10) {
      await Promise.all(
        Array.from({ length: Math.min(10, to - n) }, async (_, i) => {
          const { token } = await sessions.create({ n: n + i, value: valueOf(n + i) });
          emit('created', { n: n + i, token });
        }),
      );
    }
  },

  /** Reads them so many times over, at once and in turns. Resolves to what was found. */
  async read(made, rounds) {
    const found = { cache: 0, store: 0, absent: 0, wrong: 0, errors: [] };
    for (let round = 0; round < rounds; round++) {
      await Promise.all(
        made.map(async ({ n, token }) => {
          const session = await sessions.get(token);
          if (session === null) found.absent++;
          else found[session.source]++;
          if (session !== null && (session.data.n !== n || session.data.value !== valueOf(n))) found.wrong++;
        }),
      );
      await new Promise((resolve) => setTimeout(resolve, 100)); // for files to be written
    }
    return { ...found, errors, stats: cache.stats() };
  },
});

// What an app does not use is not loaded: it would cost every start of every process.
import { afterEach, describe, expect, it } from 'vitest';
import { NodeWorker } from '../support/node-worker.js';
import { RedisServer } from '../support/redis-server.js';

const WORKER = new URL('workers/loaded-packages-worker.mjs', import.meta.url);

/** `cron` and `@nestjs/schedule` are for `cache.clearCron`. */
const UNUSED = [
  'ioredis',
  'redis',
  'fastify',
  '@nestjs/platform-fastify',
  '@nestjs/schedule',
  '@nestjs/terminus',
  'cron',
  'lmdb',
  'msgpackr',
];

let worker: NodeWorker | undefined;
let redis: RedisServer | undefined;

afterEach(async () => {
  await worker?.stop();
  await redis?.stop();
  worker = redis = undefined;
});

async function bootAndAsk(options: object): Promise<string[]> {
  worker = await NodeWorker.start(WORKER);
  await worker.call('boot', options);
  expect(await worker.call('ask')).toEqual({ name: 'Ada' });
  const loaded = await worker.call<string[]>('loaded');
  await worker.call('close');
  return loaded;
}

describe('packages loaded by an app on Express', () => {
  it('with the memory store are those it uses: no ioredis, Fastify, lmdb, terminus, msgpackr, cron', async () => {
    const loaded = await bootAndAsk({});

    // That the list tells anything at all:
    expect(loaded).toEqual(
      expect.arrayContaining(['nestjs-sessionkit', 'express', '@nestjs/core', 'lru-cache']),
    );
    expect(loaded.filter((name) => UNUSED.includes(name) || name.startsWith('@fastify/'))).toEqual([]);
  });

  it('with Redis are those and ioredis', async () => {
    redis = await RedisServer.start();

    const loaded = await bootAndAsk({ redis: redis.url, sweepInterval: '1h' });

    expect(loaded).toContain('ioredis');
    expect(loaded.filter((name) => UNUSED.includes(name) || name.startsWith('@fastify/'))).toEqual([
      'ioredis',
    ]);
  });
});

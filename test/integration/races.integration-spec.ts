import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NodeWorker } from '../support/node-worker.js';
import { testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { recordKey, startWorker, stopWorker, type Fields } from './session-node.js';

describe('races between two processes', () => {
  const prefix = uniquePrefix();
  let a: NodeWorker;
  let b: NodeWorker;
  let redis: Redis;

  beforeAll(async () => {
    redis = new Redis(testRedisUrl());
    const options = { redis: testRedisUrl(), keyPrefix: prefix };
    [a, b] = await Promise.all([startWorker(options), startWorker(options)]);
  });
  afterAll(async () => {
    redis.disconnect();
    await Promise.all([stopWorker(a), stopWorker(b)]);
  });

  const create = (data: Fields, options?: object) =>
    a.call<{ token: string; id: string }>('create', data, options);

  it('two processes that save different fields of one session at once both win, 300 times', async () => {
    for (let round = 0; round < 300; round++) {
      const { token, id } = await create({ kept: true });
      await Promise.all([a.call('hold', [token]), b.call('hold', [token])]);
      expect(
        await Promise.all([
          a.call('saveHeld', token, 'fromA', round),
          b.call('saveHeld', token, 'fromB', round),
        ]),
      ).toEqual(['ok', 'ok']);
      const text = (await redis.get(recordKey(prefix, id))) ?? '';
      const data: unknown = JSON.parse(text.slice(text.indexOf('\n') + 1));
      expect(data).toEqual({ kept: true, fromA: round, fromB: round });
    }
  });

  it('SCRIPT FLUSH in the middle loses no increment and fails no call', async () => {
    const { token } = await create({ count: 0 });
    let going = true;
    let flushes = 0;
    const flush = async (): Promise<void> => {
      for (; going; flushes++) await redis.script('FLUSH');
    };
    const flushing = flush();
    for (let round = 0; round < 5; round++)
      await Promise.all([a.call('increment', token, 40), b.call('increment', token, 40)]);
    going = false;
    await flushing;
    expect(flushes).toBeGreaterThan(50);
    expect(await a.call('get', token)).toMatchObject({ data: { count: 400 } });
  });

  it('a save after a destroy in another process gives SESSION_GONE and leaves no key', async () => {
    const { token, id } = await create({}, { userId: 'ada' });
    await a.call('hold', [token]);
    expect(await b.call('destroyed', token)).toBe(true);
    expect(await a.call('saveHeld', token, 'n', 1)).toBe('SESSION_GONE');
    expect(await redis.exists(recordKey(prefix, id))).toBe(0);
    expect(await b.call('destroyed', token)).toBe(false);
  });
});

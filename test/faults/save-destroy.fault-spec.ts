// COHERENCE test 9. Destroy in one process against save in another, while the server forgets its scripts again and
// again: a save never brings a session back. Weakened: the same race with a writer that does GET, changes what it got
// and sends SET with the expiry as a pipeline (what connect-redis and its kind do); it brings most of them back.
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { recordKey, startWorker, stopWorker, type Fields } from '../integration/session-node.js';
import type { NodeWorker } from '../support/node-worker.js';
import { RedisServer } from '../support/redis-server.js';
import { uniquePrefix } from '../support/redis-url.js';

const ROUNDS = 3_000;
const BATCH = 100;

describe('destroy against save', () => {
  const prefix = uniquePrefix();
  let server: RedisServer;
  let a: NodeWorker;
  let b: NodeWorker;
  let redis: Redis;

  beforeAll(async () => {
    server = await RedisServer.start(); // one of our own: SCRIPT FLUSH is felt by everybody
    redis = new Redis(server.url);
    // No sweep while it runs, whose claims would stand among the keys that are counted at the end.
    const options = { redis: server.url, keyPrefix: prefix, sweepInterval: '1h' };
    [a, b] = await Promise.all([startWorker(options), startWorker(options)]);
  });
  afterAll(async () => {
    await Promise.all([stopWorker(a), stopWorker(b)]);
    redis.disconnect();
    await server.stop();
  });

  const create = (data: Fields, options?: object) =>
    a.call<{ token: string; id: string }>('create', data, options);
  const createBatch = () =>
    Promise.all(
      Array.from({ length: BATCH }, (_, index) =>
        create({ n: 0 }, index % 2 === 0 ? { userId: `user ${index}` } : {}),
      ),
    );
  const existing = (ids: string[]) => redis.exists(ids.map((id) => recordKey(prefix, id)));

  it('3,000 rounds with SCRIPT FLUSH in the middle: none resurrected, the save came before or says SESSION_GONE', async () => {
    const outcomes = { ok: 0, SESSION_GONE: 0 };
    let resurrected = 0;
    let flushes = 0;
    for (let round = 0; round < ROUNDS; round += BATCH) {
      const sessions = await createBatch();
      await a.call(
        'hold',
        sessions.map(({ token }) => token),
      );
      let racing = true;
      const flush = async (): Promise<void> => {
        for (; racing; flushes++) await redis.script('FLUSH');
      };
      const flushing = round >= ROUNDS / 3 && round < (2 * ROUNDS) / 3 ? flush() : undefined;
      const results = await Promise.all(
        sessions.map(async ({ token }, index) => {
          const destroy = () => b.call<boolean>('destroyed', token);
          const save = () => a.call<keyof typeof outcomes>('saveHeld', token, 'n', index + 1);
          // Who is asked first changes, so that both orders happen.
          if (index % 4 < 2) {
            const [saved, ended] = await Promise.all([save(), destroy()]);
            return { saved, ended };
          }
          const [ended, saved] = await Promise.all([destroy(), save()]);
          return { saved, ended };
        }),
      );
      racing = false;
      await flushing;
      await a.call('release');
      for (const { saved, ended } of results) {
        expect(ended).toBe(true);
        expect(Object.keys(outcomes)).toContain(saved);
        outcomes[saved]++;
      }
      resurrected += await existing(sessions.map(({ id }) => id));
      for (const worker of [a, b]) {
        const seen = await Promise.all(sessions.map(({ token }) => worker.call('get', token)));
        resurrected += seen.filter((session) => session !== null).length;
      }
    }
    process.stdout.write(
      `save against destroy: ${outcomes.ok} before, ${outcomes.SESSION_GONE} after, ${resurrected} resurrected, ${flushes} SCRIPT FLUSH\n`,
    );
    expect(resurrected).toBe(0);
    expect(outcomes.ok + outcomes.SESSION_GONE).toBe(ROUNDS);
    // Both orders happened, and the flushes fell between them, or the test shows nothing.
    expect(Math.min(outcomes.ok, outcomes.SESSION_GONE)).toBeGreaterThan(10);
    expect(flushes).toBeGreaterThan(100);
    // No index remembers any of them: the layout marker is all that is left.
    expect(await redis.keys(`${prefix}*`)).toEqual([`${prefix}layout`]);
  });

  it('a writer that does GET and SET brings sessions back', async () => {
    const rounds = ROUNDS / 10;
    let resurrected = 0;
    for (let round = 0; round < rounds; round += BATCH) {
      const sessions = await createBatch();
      const save = async (id: string): Promise<void> => {
        const key = recordKey(prefix, id);
        const text = await redis.get(key);
        if (text === null) return; // the destroy came first
        const changed = text.slice(0, text.indexOf('\n') + 1) + JSON.stringify({ n: 1 });
        await redis.pipeline().set(key, changed).pexpire(key, 60_000).exec();
      };
      await Promise.all(
        sessions.map(async ({ token, id }, index) => {
          const destroying = index % 4 < 2 ? null : b.call('destroyed', token);
          const saving = save(id);
          await Promise.all([saving, destroying ?? b.call('destroyed', token)]);
        }),
      );
      resurrected += await existing(sessions.map(({ id }) => id));
    }
    process.stdout.write(`GET and SET against destroy: ${resurrected} of ${rounds} resurrected\n`);
    expect(resurrected).toBeGreaterThan(0);
  });
});

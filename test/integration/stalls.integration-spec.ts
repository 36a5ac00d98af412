// For how long the end of many sessions holds up everybody else's commands.
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { expect, it } from 'vitest';
import { testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { keysOf, NO_SWEEP, openRegistryNode, startRegistryWorker } from './registry-rig.js';

it('the end of 10,000 sessions holds Redis up for so long (a figure, no assertion)', async () => {
  const prefix = uniquePrefix();
  const options = { redis: testRedisUrl(), keyPrefix: prefix, sweepInterval: NO_SWEEP, partitions: 1 };
  const redis = new Redis(testRedisUrl());
  const [filler, other] = [await startRegistryWorker(options), await openRegistryNode(options)];
  const stall = async (what: string, task: () => Promise<unknown>): Promise<void> => {
    const pinger = new Redis(testRedisUrl());
    await pinger.ping();
    const waits: number[] = [];
    let going = true;
    const pinging = (async () => {
      while (going) {
        const sent = performance.now();
        await pinger.ping();
        waits.push(performance.now() - sent);
        await delay(2);
      }
    })();
    const begun = performance.now();
    await task();
    const took = performance.now() - begun;
    going = false;
    await pinging;
    pinger.disconnect();
    const slow = (await redis.call('SLOWLOG', 'GET', '5')) as [number, number, number, string[]][];
    const longest = Math.max(0, ...slow.map(([, , micros]) => micros / 1000));
    process.stdout.write(
      `${what}: ${took.toFixed(0)} ms in all; longest ping ${Math.max(...waits).toFixed(1)} ms of ${waits.length}; ` +
        `longest command ${longest.toFixed(1)} ms\n`,
    );
  };
  const slowerThan = ((await redis.config('GET', 'slowlog-log-slower-than')) as string[])[1]!;
  await redis.config('SET', 'slowlog-log-slower-than', '500');
  try {
    await filler.call('fill', 0, 10_000, {});
    await redis.call('SLOWLOG', 'RESET');
    await stall('killAll of 10,000', () => other.registry.killAll());
    await filler.call('fill', 0, 10_000, { idleTimeout: 1000 });
    await waitFor(async () => (await other.registry.count()) === 0, { timeoutMs: 10_000, intervalMs: 50 });
    await redis.call('SLOWLOG', 'RESET');
    let count = 0;
    await stall('sweep of 10,000', () => other.store.sweep(() => count++, 100));
    expect(count).toBe(10_000);
  } finally {
    await redis.config('SET', 'slowlog-log-slower-than', slowerThan);
  }
  expect((await keysOf(redis, prefix)).filter((key) => !key.endsWith('}:sweep'))).toEqual([
    `${prefix}layout`,
  ]);
  await filler.call('close');
  await filler.stop();
  await other.close();
  redis.disconnect();
});

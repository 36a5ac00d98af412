// A process that dies while it signs visitors in, which takes two steps in two partitions: at each of them, and at any
// moment. A login may be lost by it; no visitor may ever have two usable tokens.
// Shown to fail when the new session is made before the old one is marked, and when MARK_MOVED leaves index entries.
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { SessionModuleOptions } from '../../lib/index.js';
import type { NodeWorker } from '../support/node-worker.js';
import { testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import {
  audit,
  keysOf,
  NO_SWEEP,
  openRegistryNode,
  startRegistryWorker,
  type RegistryNode,
} from '../integration/registry-rig.js';

const VISITORS = 60;

describe('a process is killed while it signs visitors in', () => {
  let redis: Redis;
  let prefix: string;
  let node: RegistryNode;
  let victims: NodeWorker[] = [];

  beforeAll(() => {
    redis = new Redis(testRedisUrl());
  });
  afterAll(() => redis.disconnect());
  afterEach(async () => {
    await node.close();
    await Promise.all(victims.splice(0).map((victim) => victim.kill()));
  });

  const open = async (victimCount: number, options: SessionModuleOptions = {}): Promise<void> => {
    prefix = uniquePrefix();
    const settings = {
      redis: testRedisUrl(),
      keyPrefix: prefix,
      sweepInterval: NO_SWEEP,
      cache: false,
      ...options,
    } as const;
    node = await openRegistryNode({ ...settings, sweepInterval: '100ms' });
    victims = await Promise.all(Array.from({ length: victimCount }, () => startRegistryWorker(settings)));
  };
  const visitors = async (): Promise<string[]> => {
    const made = await Promise.all(
      Array.from({ length: VISITORS }, (_, visitor) => node.sessions.create({ visitor })),
    );
    return made.map(({ token }) => token);
  };

  /** How many sessions each visitor has that any token could lead to, by the records. */
  async function usable(): Promise<number[]> {
    const counts = Array.from({ length: VISITORS }, () => 0);
    const records = (await keysOf(redis, prefix)).filter((key) => key.includes('}:s:'));
    for (const text of await redis.mget(records)) {
      if (text?.startsWith('1') !== true) continue;
      const { visitor } = JSON.parse(text.slice(text.indexOf('\n') + 1)) as { visitor: number };
      counts[visitor]!++;
    }
    return counts;
  }

  async function judge(tokens: readonly string[]): Promise<{ old: number; fresh: number; lost: number }> {
    const counts = await usable();
    expect(Math.max(...counts)).toBeLessThanOrEqual(1);
    const found = await Promise.all(tokens.map((token) => node.sessions.get(token, { fresh: true })));
    let [old, fresh, lost] = [0, 0, 0];
    for (const [visitor, session] of found.entries()) {
      expect(session === null || session.userId === null).toBe(true);
      if (session !== null) old++;
      else if (counts[visitor] === 1) fresh++;
      else lost++;
    }
    // For no longer than a sweep.
    await waitFor(
      async () => {
        expect((await audit(redis, prefix)).wrong).toEqual([]);
        return true;
      },
      { timeoutMs: 1_000 },
    );
    return { old, fresh, lost };
  }

  /** Marks go by themselves, when they have stood for twice `commandTimeout` and a second, all else with the last session. */
  async function nothingLeft(): Promise<void> {
    await waitFor(async () => (await audit(redis, prefix)).moving.length === 0, {
      timeoutMs: 10_000,
      intervalMs: 50,
    });
    expect((await audit(redis, prefix)).wrong).toEqual([]);
    await node.registry.killAll();
    await waitFor(
      async () => {
        const keys = (await keysOf(redis, prefix)).filter((key) => !key.endsWith(':sweep'));
        expect(keys).toEqual([`${prefix}layout`]);
        return true;
      },
      { timeoutMs: 5_000, intervalMs: 50 },
    );
  }

  it.each(['before', 'marked', 'created', 'moved'])('at the step "%s"', async (step) => {
    await open(1);
    const tokens = await visitors();
    const [victim] = victims as [NodeWorker];
    await expect(victim.call('dieInLogin', tokens, step, VISITORS / 2)).rejects.toThrow(/SIGKILL/);
    expect(await victim.waitForExit()).toMatchObject({ signal: 'SIGKILL' });
    const { old, fresh, lost } = await judge(tokens);
    process.stdout.write(`killed at "${step}": ${old} as they were, ${fresh} signed in, ${lost} lost\n`);
    expect(old + fresh + lost).toBe(VISITORS);
    expect(Math.min(old, fresh)).toBeGreaterThan(0);
    if (step === 'marked') {
      expect(lost).toBeGreaterThan(0);
      expect(await node.registry.count()).toBe(old + fresh);
    }
    await nothingLeft();
  });

  it('at the step of making the new session where that ends another of the user', async () => {
    await open(1, { maxSessionsPerUser: 1 });
    await Promise.all(
      Array.from({ length: VISITORS }, (_, n) =>
        node.sessions.create({ visitor: n }, { userId: `user-${n}` }),
      ),
    );
    const tokens = (
      await Promise.all(Array.from({ length: VISITORS }, () => node.sessions.create({ visitor: 0 })))
    ).map(({ token }) => token);
    await expect(victims[0]!.call('dieInLogin', tokens, 'created', VISITORS / 2)).rejects.toThrow(/SIGKILL/);
    await victims[0]!.waitForExit();
    for (let n = 0; n < VISITORS; n++)
      expect(await node.registry.getUserSessions(`user-${n}`)).toHaveLength(1);
    expect((await audit(redis, prefix)).wrong).toEqual([]);
    await nothingLeft();
  });

  it('at any moment, 5 times', async () => {
    await open(5);
    const sum = { old: 0, fresh: 0, lost: 0 };
    for (const victim of victims) {
      const tokens = await visitors();
      const dying = victim.call('dieInLogin', tokens, 'never', 0).catch(() => undefined);
      await waitFor(async () => (await keysOf(redis, prefix)).some((key) => key.includes('}:u:')), {
        intervalMs: 1,
      });
      await delay(Math.random() * 5);
      await victim.kill();
      await dying;
      const result = await judge(tokens);
      for (const key of ['old', 'fresh', 'lost'] as const) sum[key] += result[key];
      await node.registry.killAll();
    }
    process.stdout.write(`killed at any moment: ${JSON.stringify(sum)}\n`);
    expect(Math.min(sum.old, sum.fresh)).toBeGreaterThan(0);
    await nothingLeft();
  });
});

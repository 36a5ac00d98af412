// After everything has ended, by whatever path, Redis holds nothing of it; and where nobody sweeps, it goes by itself.
// Tests run side by side: each has a prefix of its own.
// Shown to fail when DELIST leaves an entry of any index, a late note is written without a look at the deadlines, an
// index or a claim gets no TTL, and an immortal session does not keep its indexes.
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SessionModuleOptions } from '../../lib/index.js';
import { testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { audit, keysOf, NO_SWEEP, openRegistryNode, type RegistryNode } from './registry-rig.js';

interface Opened extends RegistryNode {
  readonly prefix: string;
}

describe('what is left of sessions', () => {
  let redis: Redis;
  const opened: RegistryNode[] = [];

  beforeAll(() => {
    redis = new Redis(testRedisUrl());
  });
  afterAll(async () => {
    redis.disconnect();
    await Promise.all(opened.map((one) => one.close()));
  });

  const node = async (options: SessionModuleOptions = {}): Promise<Opened> => {
    const { keyPrefix = uniquePrefix() } = options;
    const one = await openRegistryNode({
      redis: testRedisUrl(),
      keyPrefix,
      sweepInterval: NO_SWEEP,
      ...options,
    });
    opened.push(one);
    return { ...one, prefix: keyPrefix };
  };
  /** No key is left but the layout; claims and marks go by themselves. */
  const empty = async (prefix: string, timeoutMs = 8_000): Promise<void> => {
    await waitFor(
      async () => {
        const left = (await keysOf(redis, prefix)).filter((key) => key !== `${prefix}layout`);
        // What a rotation leaves is known as that for half a minute, and goes by itself.
        for (const key of left) {
          expect(await redis.getrange(key, 0, 0)).toBe('A');
          expect(await redis.pttl(key)).toBeLessThanOrEqual(30_000);
        }
        return true;
      },
      { timeoutMs, intervalMs: 50 },
    );
  };

  describe.concurrent('nothing is left behind', () => {
    const paths: [string, (node: RegistryNode) => Promise<unknown>][] = [
      ['anonymous sessions that expire', ({ sessions }) => sessions.create()],
      [
        'sessions of a user that expire',
        ({ sessions }) => sessions.create({}, { userId: 'ada lovelace+{1}%' }),
      ],
      ['a given token', ({ sessions }) => sessions.create({}, { token: 'a-token-of-their-own' })],
      [
        'a given token used again after it expired',
        async ({ sessions }) => {
          const token = 'a-token-used-twice-over';
          await sessions.create({}, { token });
          await waitFor(async () => (await sessions.get(token, { fresh: true })) === null);
          await sessions.create({}, { token });
        },
      ],
      ['login', async ({ sessions }) => (await sessions.create()).regenerate({ userId: 'ada' })],
      [
        'logout',
        async ({ sessions }) => (await sessions.create({}, { userId: 'ada' })).regenerate({ userId: null }),
      ],
      [
        'from one user to another',
        async ({ sessions }) => (await sessions.create({}, { userId: 'ada' })).regenerate({ userId: 'bob' }),
      ],
      ['regenerate', async ({ sessions }) => (await sessions.create({}, { userId: 'ada' })).regenerate()],
      [
        'regenerate with new times',
        async ({ sessions }) =>
          (await sessions.create({}, { userId: 'ada' })).regenerate({ idleTimeout: '1s' }),
      ],
      [
        'rotation with grace',
        async ({ sessions }) => (await sessions.create({}, { userId: 'ada' })).rotate(),
      ],
      [
        'destroy, kill, killUser, killAll',
        async ({ sessions, registry }) => {
          const made = await Promise.all(
            Array.from({ length: 4 }, () => sessions.create({}, { userId: 'ada' })),
          );
          await made[0]!.destroy();
          await registry.kill(made[1]!.id);
          await registry.killUser('ada', { except: made[3]!.id });
          await sessions.create();
          await registry.killAll();
        },
      ],
      [
        'kill of one that has expired',
        async ({ sessions, registry }) => {
          const { id, token } = await sessions.create({}, { userId: 'ada' });
          await waitFor(async () => (await sessions.get(token, { fresh: true })) === null);
          await registry.kill(id);
        },
      ],
      [
        'eviction',
        async ({ sessions }) => {
          for (let n = 0; n < 6; n++) await sessions.create({}, { userId: 'ada' });
        },
      ],
      [
        'writes and touches',
        async ({ sessions, registry }) => {
          const made = await Promise.all(
            Array.from({ length: 3 }, () => sessions.create({}, { userId: 'ada' })),
          );
          await registry.updateUser('ada', { role: 'admin' });
          for (const { token } of made) await sessions.touch(token);
          await made[0]!.update({ n: 1 });
          await sessions.update(made[1]!.token, { n: 1 }, { keepExpiry: true });
        },
      ],
    ];

    it.each(paths)('%s', async (_, path) => {
      const filler = await node({
        allowGivenTokens: true,
        maxSessionsPerUser: 3,
        idleTimeout: 1000,
        touchInterval: 0,
        rotateEvery: '1m',
        rotateGrace: '500ms',
      });
      await path(filler);
      expect((await audit(redis, filler.prefix)).wrong).toEqual([]);
      await waitFor(async () => (await filler.registry.count()) === 0);
      // Notes of activity come late, when the sessions have ended.
      await filler.store.sweep(() => undefined, 1);
      await filler.registry.count({ activeWithin: '1h' });
      await empty(filler.prefix);
    });

    it('a note of activity that is written after the session has ended leaves no ghost', async () => {
      const a = await node();
      const b = await node({ keyPrefix: a.prefix });
      const kept = await a.sessions.create({}, { userId: 'ada' });
      const made = await Promise.all(
        Array.from({ length: 50 }, (_, n) => a.sessions.create({}, n % 2 ? { userId: `user-${n}` } : {})),
      );
      for (const { id } of made) expect(await b.registry.kill(id)).toBe(true); // a does not know: its notes stand
      await a.registry.count({ activeWithin: '1h' });
      expect((await audit(redis, a.prefix)).wrong).toEqual([]);
      expect(await a.registry.getAllUsers()).toMatchObject({ users: ['ada'] });
      expect(await a.registry.count({ activeWithin: '1h' })).toBe(1);
      await b.registry.kill(kept.id);
      await empty(a.prefix);
    });
  });

  describe.concurrent('when nobody sweeps any more', () => {
    /** Time to live of each index, in ms; -1 is none. */
    const lives = async (prefix: string): Promise<Record<string, number>> => {
      const keys = (await keysOf(redis, prefix)).filter((key) => /}:(exp|act|users|u:.*)$/.test(key));
      const found = await Promise.all(
        keys.map(async (key) => [key.replace(/^.*}:/, ''), await redis.pttl(key)]),
      );
      return Object.fromEntries(found) as Record<string, number>;
    };
    const settled = async (opened: Opened): Promise<Record<string, number>> => {
      await opened.registry.count({ activeWithin: '1h' }); // writes the notes
      return lives(opened.prefix);
    };
    const single = (): Promise<Opened> => node({ partitions: 1, idleTimeout: '1m', touchInterval: 0 });

    it('every index goes by itself, not before its last session and not much later', async () => {
      const a = await single();
      const made = await a.sessions.create({}, { userId: 'ada' });
      await a.sessions.create({}, { userId: 'bob', idleTimeout: '2m' });
      await a.sessions.create();
      await a.sessions.update(made.token, { n: 1 });
      await a.sessions.touch(made.token);
      await (await a.sessions.create()).regenerate({ userId: 'eve' });
      const ttl = await settled(a);
      expect(Object.keys(ttl).sort()).toEqual(['act', 'exp', 'u:ada', 'u:bob', 'u:eve', 'users']);
      for (const key of ['act', 'exp', 'users', 'u:bob']) {
        expect(ttl[key], key).toBeGreaterThan(170_000);
        expect(ttl[key], key).toBeLessThan(220_000);
      }
      for (const key of ['u:ada', 'u:eve']) expect(ttl[key], key).toBeLessThan(140_000);
    });

    it('an immortal session keeps its indexes; they expire again when it has gone', async () => {
      const a = await single();
      const mortal = await a.sessions.create({}, { userId: 'ada' });
      for (const [key, ms] of Object.entries(await settled(a))) expect(ms, key).toBeGreaterThan(0);
      const immortal = await a.sessions.create({}, { userId: 'ada', idleTimeout: 0, absoluteTimeout: 0 });
      expect(await settled(a)).toEqual({ act: -1, exp: -1, users: -1, 'u:ada': -1 });
      await a.registry.kill(immortal.id);
      await a.sessions.touch(mortal.token);
      await a.sessions.create({}, { userId: 'ada' });
      const ttl = await settled(a);
      for (const key of ['act', 'exp', 'users', 'u:ada']) expect(ttl[key], key).toBeGreaterThan(0);
    });

    it('an index that held an immortal session never ends before another of its sessions', async () => {
      const a = await single();
      const immortal = await a.sessions.create({}, { userId: 'ada', idleTimeout: 0, absoluteTimeout: 0 });
      const long = await a.sessions.create({}, { userId: 'ada', idleTimeout: '10m' });
      const short = await a.sessions.create({}, { userId: 'ada' });
      await a.registry.kill(immortal.id);
      await a.sessions.touch(short.token);
      const next = await a.sessions.create({}, { userId: 'ada' });
      for (const [key, ms] of Object.entries(await settled(a)))
        expect(ms === -1 || ms > 590_000, `${key}: ${ms}`).toBe(true);
      // With one left it is known again; with none there is no index.
      await a.registry.kill(long.id);
      await a.registry.kill(next.id);
      await a.sessions.touch(short.token);
      for (const [key, ms] of Object.entries(await settled(a))) expect(ms, key).toBeGreaterThan(50_000);
      await a.registry.kill(short.id);
      expect(await settled(a)).toEqual({});
    });

    it('claims end by themselves', async () => {
      const a = await single();
      await a.store.sweep(() => undefined, 5_000);
      expect(await redis.pttl(`${a.prefix}{0}:sweep`)).toBeGreaterThan(4_000);
    });
  });
});

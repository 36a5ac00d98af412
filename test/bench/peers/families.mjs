// The families of the comparison: what every contender does in turn, and how each sample proves that it was done.
import { LRUCache } from 'lru-cache';
import { check, makeData, POOL } from '../kit.mjs';
import { awaited, compile, looped, ROUND } from '../lookups.mjs';
import { commandStats, statsBetween } from '../redis.mjs';
import { closedLoop, quantile } from '../rounds.mjs';
import { CONTENDERS } from './contenders.mjs';

/** What a lookup returned last: keeps the compiler from leaving the work out. */
export let sink;

/**
 * A race. The first side is what the others' ratios are to.
 *
 * @typedef {object} Race
 * @property {string} title
 * @property {Record<string, import('../rounds.mjs').Side>} sides
 * @property {boolean} [local] never asks Redis
 * @property {boolean} [sync] does not await, so that concurrency means nothing
 * @property {Record<number, number>} [aims] our least ratio wanted, by concurrency
 */

/** @type {Record<string, (env: { url: string, raw: import('ioredis').Redis, defer: (close: () => unknown) => void }) => Promise<Race[]>>} */
export const FAMILIES = { warm, get, create, save, touch, destroy };

async function openAll(env, { cached, needs = 'create', only = () => true }) {
  const opened = {};
  for (const [name, open] of Object.entries(CONTENDERS)) {
    if (!only(name)) continue;
    const contender = await open({ ...env, cached });
    env.defer(async () => {
      await contender.clear();
      await contender.close();
    });
    if (contender[needs] !== undefined) opened[name] = contender;
  }
  return opened;
}

const sidesOf = async (contenders, sideOf) => {
  const sides = {};
  for (const [name, contender] of Object.entries(contenders)) sides[name] = await sideOf(contender, name);
  return sides;
};

async function fill(contender, count) {
  const made = Array.from({ length: count });
  await closedLoop(count, 64, async (index) => {
    made[index] = await contender.create(index);
  });
  return made;
}

// --- without Redis ----------------------------------------------------------------------------------------------------

const X = 1_000_000;

async function warm(env) {
  const caches = new Set(['nestjs-sessionkit', 'session-token', 'redis-sessions', 'bentocache']);
  const contenders = await openAll(env, { cached: true, only: (name) => caches.has(name) });
  const ours = contenders['nestjs-sessionkit'];
  const tokens = await fill(ours, ROUND);
  const plain = tokens.map((token) => [token, makeData()]);
  const map = new Map(plain);
  const texts = new Map(plain.map(([token, data]) => [token, JSON.stringify(data)]));
  const lasting = new Map(plain.map(([token, data]) => [token, { data, until: 2 ** 52 }]));
  const lru = new LRUCache({ max: 10_000, ttl: 3_600_000 });
  for (const [token, data] of plain) lru.set(token, data);
  const alive = (entry) => (entry !== undefined && performance.now() < entry.until ? entry.data : undefined);

  // A test of its own for each side, by a source of its own, or what one side gives slows down the test of another.
  const hits = {
    'Map.get': awaited(
      (index) => map.get(tokens[index]),
      (data) => (sink = data) !== undefined,
    ),
    'Map, deadline': awaited(
      (index) => alive(lasting.get(tokens[index])),
      (data) => (sink = data) !== undefined,
    ),
    'lru-cache, ttl': awaited(
      (index) => lru.get(tokens[index]),
      (data) => (sink = data) !== undefined,
    ),
    'nestjs-sessionkit': awaited(
      (index) => ours.service.get(tokens[index]),
      (session) => (sink = session) !== null,
    ),
  };
  const reads = {
    'Map.get': awaited(
      (index) => map.get(tokens[index]),
      (data) => (sink = data.x) === X,
    ),
    'Map of JSON': awaited(
      (index) => texts.get(tokens[index]),
      (text) => (sink = JSON.parse(text).x) === X,
    ),
    'nestjs-sessionkit': awaited(
      (index) => ours.service.get(tokens[index]),
      (session) => (sink = session.data.x) === X,
    ),
  };
  for (const [name, contender] of Object.entries(contenders)) {
    if (contender === ours) continue;
    const theirs = await fill(contender, ROUND);
    for (const token of theirs) await contender.get(token);
    const get = compile('(contender, theirs) => (index) => contender.get(theirs[index])')(contender, theirs);
    hits[name] = awaited(get, compile('(x) => x !== undefined'));
    reads[name] = awaited(get, compile(`(x) => x === ${X}`));
  }
  const sync = {
    'Map.get': looped((index) => (sink = map.get(tokens[index])) !== undefined),
    'Map, deadline': looped((index) => (sink = alive(lasting.get(tokens[index]))) !== undefined),
    'lru-cache, ttl': looped((index) => (sink = lru.get(tokens[index])) !== undefined),
    'nestjs-sessionkit': looped((index) => (sink = ours.service.getCached(tokens[index])) !== null),
  };
  return [
    { title: 'warm get, awaited', sides: hits, local: true, aims: { 1: 0.4, 64: 0.4 } },
    { title: 'warm get, then the first read of the data', sides: reads, local: true },
    { title: 'warm get, synchronous', sides: sync, local: true, sync: true },
  ];
}

// --- with Redis -------------------------------------------------------------------------------------------------------

async function get(env) {
  const contenders = await openAll(env, { cached: false });
  const sides = await sidesOf(contenders, async (contender, name) => {
    const sessions = await fill(contender, POOL);
    let found = 0;
    return {
      prepare: () => (found = 0),
      run: (count, concurrency) =>
        closedLoop(count, concurrency, async (index) => {
          if ((await contender.get(sessions[index % POOL])) === X) found++;
        }),
      verify: (count) => check(found === count, `${name} found ${found} of ${count}`),
    };
  });
  return [{ title: 'get, from Redis', sides, aims: { 64: 0.85, 1: 0.78 } }];
}

async function create(env) {
  const contenders = await openAll(env, { cached: true });
  const sides = await sidesOf(contenders, (contender, name) => {
    let made = [];
    return {
      prepare: (count) => (made = Array.from({ length: count })),
      run: (count, concurrency) =>
        closedLoop(count, concurrency, async (index) => {
          made[index] = await contender.create(index);
        }),
      async verify() {
        for (const one of [made[0], made.at(-1)])
          check((await contender.get(one)) === X, `${name} created it`);
        await contender.clear();
      },
    };
  });
  return [{ title: 'create, of a user', sides, aims: { 64: 0.75, 1: 0.6 } }];
}

async function save(env) {
  const contenders = await openAll(env, { cached: true, needs: 'save' });
  let x = X;
  const sides = await sidesOf(contenders, async (contender, name) => {
    const tokens = await fill(contender, POOL);
    const saved = contender.saved ?? contender.get;
    let sessions = tokens;
    let last;
    return {
      async prepare() {
        if (contender.open) sessions = await Promise.all(tokens.map((token) => contender.open(token)));
      },
      run: (count, concurrency) =>
        closedLoop(count, concurrency, (index) => {
          last = { x: ++x, index: index % POOL };
          return contender.save(sessions[last.index], last.x);
        }),
      async verify() {
        const asked = contender.saved ? sessions : tokens;
        check((await saved(asked[last.index])) === last.x, `${name} saved what it was given last`);
      },
    };
  });
  return [{ title: 'save, of one field', sides, aims: { 64: 0.6 } }];
}

async function touch(env) {
  const contenders = await openAll(env, { cached: true, needs: 'touch' });
  const sides = await sidesOf(contenders, async (contender) => {
    const tokens = await fill(contender, POOL);
    let sessions = tokens;
    let asked = 0;
    return {
      async prepare() {
        if (contender.open) sessions = await Promise.all(tokens.map((token) => contender.open(token)));
        asked = await writes(env.raw);
      },
      run: (count, concurrency) =>
        closedLoop(count, concurrency, (index) => contender.touch(sessions[index % POOL])),
      async verify(count) {
        // Who decides that nothing is due would look fast for doing nothing.
        const written = (await writes(env.raw)) - asked;
        check(written >= count * 0.999, `${written} of ${count} touches were written`);
      },
    };
  });
  return [{ title: 'touch', sides, aims: { 64: 0.6 } }];
}

/** Commands, one of which every touch of every contender runs at least once. */
async function writes(raw) {
  const stats = await commandStats(raw);
  const names = ['pexpire', 'expire', 'pexpireat', 'hset', 'hmset', 'zadd'];
  return names.reduce((sum, name) => sum + (stats[name]?.calls ?? 0), 0);
}

async function destroy(env) {
  const contenders = await openAll(env, { cached: true });
  const sides = await sidesOf(contenders, (contender, name) => {
    let tokens = [];
    return {
      async prepare(count) {
        tokens = await fill(contender, count);
      },
      run: (count, concurrency) =>
        closedLoop(count, concurrency, (index) => contender.destroy(tokens[index])),
      async verify() {
        for (const one of [tokens[0], tokens.at(-1)])
          check(isAbsent(await contender.get(one)), `${name} destroyed it`);
      },
    };
  });
  return [{ title: 'destroy, of a user', sides, aims: { 64: 0.6 } }];
}

const isAbsent = (found) => found === undefined || found === null;

// --- 64 at once -------------------------------------------------------------------------------------------------------

const AT_ONCE = 64;

/**
 * 64 simultaneous reads of one session that another process has made: how many commands reach Redis, as it counts them
 * itself. With each contender's own cache, still empty of that session.
 *
 * @returns {Promise<{ name: string, commands: Record<string, number>, reads: number }[]>} medians of some rounds
 */
export async function coalescing({ url, raw }, rounds) {
  const results = [];
  for (const [name, open] of Object.entries(CONTENDERS)) {
    const writer = await open({ url, raw, cached: false });
    const reader = await open({ url, raw, cached: true, prefix: writer.prefix });
    try {
      const methods = reader.getOrSet ? ['get', 'getOrSet'] : ['get'];
      for (const method of methods) {
        const counted = [];
        for (let round = 0; round < rounds; round++) {
          const session = await writer.create(round);
          const before = await commandStats(raw);
          const found = await Promise.all(Array.from({ length: AT_ONCE }, () => reader[method](session)));
          const stats = statsBetween(before, await commandStats(raw));
          check(
            found.every((x) => x === X),
            `${name} found the session ${AT_ONCE} times`,
          );
          counted.push(stats);
        }
        const commands = {};
        for (const command of new Set(counted.flatMap((stats) => Object.keys(stats)))) {
          const calls = quantile(
            counted.map((stats) => stats[command]?.calls ?? 0),
            0.5,
          );
          if (calls > 0) commands[command] = calls;
        }
        const reads = ['get', 'hmget'].reduce((sum, command) => sum + (commands[command] ?? 0), 0);
        results.push({ name: method === 'get' ? name : `${name}, ${method}`, commands, reads });
      }
    } finally {
      await writer.clear();
      await reader.close();
      await writer.close();
    }
  }
  return results;
}

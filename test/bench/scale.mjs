// `npm run bench:scale [-- --quick]`
//
// What grows with the number of sessions: each operation on one session beside the same at 1,000 sessions, Redis' memory
// per session by the option `index` beside a plain `SET EX` of the same data, and how long a sweep makes the server deaf
// to others. Each number of sessions has a server of its own, and all take turns, so that whatever else the machine does
// falls on all alike. Prints figures and asserts none: it fails only when something did not do its work.
import { loadavg } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { newSessionId } from 'nestjs-sessionkit';
import { check, IDLE_SECONDS, JSON_220, makeData, openApp } from './kit.mjs';
import { startRedis } from './redis.mjs';
import { environment, formatFigures, table } from './report.mjs';
import { quantile } from './rounds.mjs';
import { startWorker } from './workers.mjs';

const { values: options } = parseArgs({ options: { quick: { type: 'boolean' } } });
const SCALES = options.quick ? [1_000, 10_000, 100_000] : [1_000, 10_000, 100_000, 1_000_000];
const ROUNDS = options.quick ? 300 : 1_000;
const MEMORY_SESSIONS = options.quick ? 50_000 : 200_000;
const EXPIRED = options.quick ? 10_000 : 100_000;
const PER_USER = 5;
const PARTITIONS = 16;
const PREFIX = 'sk:';
const GRACE_MS = 60_000;

/** Aims. */
const GROWTH = 1.3;
const STALL_MS = 10;
const INDEXES = [
  { title: 'all indexes', index: { users: true, activity: true }, aim: 2.4 },
  { title: 'index.activity: false', index: { users: true, activity: false }, aim: 1.85 },
  { title: 'index.users: false', index: { users: false, activity: true } },
  { title: 'both false', index: { users: false, activity: false } },
  { title: 'index: false', index: false, aim: 1.3 },
];

const count = (value) => value.toLocaleString('en-GB');
const figures = [];
const closers = [];
try {
  const probe = await openServer();
  console.log((await environment(probe.raw, { own: true })).lines.join('\n'));
  await measureMemory(probe);
  const sites = [];
  for (const sessions of SCALES) sites.push(await openSite(sessions));
  printGrowth(await measureOperations(sites));
  await measureSweep(sites.at(-1));
} finally {
  // Also what was measured before something failed.
  say('');
  if (figures.length > 0) console.log(`\n${formatFigures(figures)}`);
  console.log(`Load at the end: ${loadavg()[0].toFixed(1)}.`);
  for (const close of closers.reverse()) await close();
}

async function openServer() {
  const redis = await startRedis();
  const raw = new Redis(redis.url);
  closers.push(async () => {
    raw.disconnect();
    await redis.stop();
  });
  return { url: redis.url, raw };
}

// --- filling --------------------------------------------------------------------------------------------------------

/**
 * Sessions as the store writes them, by pipelines; the caller checks that the store finds them.
 *
 * @param {{ first?: number, index?: false | { users: boolean, activity: boolean }, ended?: boolean }} settings `ended`:
 *   their time is up
 */
async function fill(
  raw,
  sessions,
  { first = 0, index = { users: true, activity: true }, ended = false } = {},
) {
  const now = Date.now();
  const lastAccess = ended ? now - IDLE_SECONDS * 1_000 - 1_000 : now;
  const ends = lastAccess + IDLE_SECONDS * 1_000;
  const expires = Math.max(ends, now) + GRACE_MS * 10;
  const digits = (value, width) => String(value).padStart(width, '0');
  for (let done = 0; done < sessions; done += 1_000) {
    say(`${count(first + done)} sessions`);
    const pipeline = raw.pipeline();
    const lists = new Map();
    const add = (key, score, member) => {
      if (!lists.has(key)) lists.set(key, []);
      lists.get(key).push(score, member);
    };
    for (let n = first + done; n < first + Math.min(sessions, done + 1_000); n++) {
      const user = `user-${Math.floor(n / PER_USER)}`;
      const id = newSessionId(user, PARTITIONS);
      const tag = `${PREFIX}{${Buffer.from(id, 'base64url')[0]}}:`;
      const header = [
        1,
        digits(now * 1_000, 16),
        'AAAAAAA',
        lastAccess,
        digits(IDLE_SECONDS * 1_000, 11),
        now + 86_400_000,
        lastAccess,
      ];
      pipeline.set(`${tag}s:${id}`, `${header.join(' ')} ${user} \n${JSON_220}`, 'PXAT', expires);
      if (index === false) continue;
      add(`${tag}exp`, ends, `${id} ${user}`);
      if (index.users) add(`${tag}u:${user}`, lastAccess, id);
      if (index.activity) add(`${tag}act`, lastAccess, id);
      if (index.users && index.activity) add(`${tag}users`, lastAccess, user);
    }
    for (const [key, list] of lists) pipeline.zadd(key, ...list).pexpireat(key, expires);
    for (const [error] of await pipeline.exec()) if (error) throw error;
  }
}

// --- operations -----------------------------------------------------------------------------------------------------

async function openSite(sessions) {
  const { url, raw } = await openServer();
  await fill(raw, sessions);
  // No near cache: what is measured is Redis. Sweeps are called here, and timed.
  const app = await openApp(url, {
    keyPrefix: PREFIX,
    partitions: PARTITIONS,
    cache: false,
    sweepInterval: '1h',
    touchInterval: 0,
  });
  closers.push(() => app.close());
  check((await app.registry.count()) === sessions, `the store finds ${sessions} sessions`);
  const listed = await app.registry.getUserSessions('user-0');
  check(listed.length === PER_USER && listed[0].expiresAt > Date.now(), 'and those of a user');
  return { ...app, url, raw, sessions };
}

/** Median ms by operation and number of sessions. One session's life a round; the rounds of all sites take turns. */
async function measureOperations(sites) {
  const samples = {};
  for (let round = -50; round < ROUNDS; round++) {
    say(`operations, round ${round}`);
    for (const [at, site] of sites.entries()) {
      for (const [name, ms] of await oneLife(site)) {
        samples[name] ??= sites.map(() => []);
        if (round >= 0) samples[name][at].push(ms); // those before are for the compiler
      }
    }
  }
  return Object.entries(samples).map(([name, bySite]) => [name, bySite.map((all) => quantile(all, 0.5))]);
}

async function oneLife({ service, registry, sessions }) {
  const userId = `user-${Math.floor((Math.random() * sessions) / PER_USER)}`;
  const took = [];
  const timed = async (name, work) => {
    const began = performance.now();
    const result = await work();
    took.push([name, performance.now() - began]);
    return result;
  };
  const { token } = await timed('create', () => service.create(makeData(), { userId }));
  const session = await timed('get', () => service.get(token));
  check(session.source === 'store' && session.data.x === 1_000_000, 'get() read the session');
  check((await timed('touch', () => session.touch())) !== null, 'touch() found it');
  session.data.x = 1_000_001;
  await timed('save', () => session.save());
  const moved = await timed('regenerate', () => session.regenerate());
  check(moved.token !== token && moved.data.x === 1_000_001, 'regenerate() gave a new token');
  check(
    (await timed('countForUser', () => registry.countForUser(userId))) === PER_USER + 1,
    'countForUser()',
  );
  const listed = await timed('getUserSessions', () => registry.getUserSessions(userId));
  check(listed.length === PER_USER + 1, 'getUserSessions()');
  check((await timed('destroy', () => service.destroy(moved.token))) === true, 'destroy() ended it');
  return took;
}

function printGrowth(rows) {
  const header = [
    'ms, median',
    ...SCALES.flatMap((sessions, at) => (at === 0 ? [count(sessions)] : [count(sessions), 'ratio'])),
    '',
  ];
  const lines = rows.map(([name, medians]) => {
    const ratios = medians.map((ms) => ms / medians[0]);
    const cells = medians.flatMap((ms, at) =>
      at === 0 ? [ms.toFixed(3)] : [ms.toFixed(3), ratios[at].toFixed(2)],
    );
    return [name, ...cells, Math.max(...ratios) <= GROWTH ? 'reached' : 'NOT REACHED'];
  });
  say('');
  console.log(
    `\nOne call at a time, ${ROUNDS} rounds that take turns; aim: ratio to ${count(SCALES[0])} sessions <= ${GROWTH}.\n` +
      table([header, ...lines], new Set([0, header.length - 1])),
  );
}

// --- memory ---------------------------------------------------------------------------------------------------------

async function measureMemory({ url, raw }) {
  const used = async () => Number(/^used_memory:(\d+)/m.exec(await raw.info('memory'))[1]);
  const perSession = async (load) => {
    await raw.flushall('SYNC');
    const before = await used();
    await load();
    await settled(used);
    return ((await used()) - before) / MEMORY_SESSIONS;
  };
  // Ids as long as those of express-session.
  const plain = await perSession(() => fillPlain(raw, MEMORY_SESSIONS));
  figures.push({
    title: `Redis, bytes a session: SET EX of 220 bytes (of ${count(MEMORY_SESSIONS)}, ${PER_USER} a user)`,
    value: plain.toFixed(0),
  });
  for (const { title, index, aim } of INDEXES) {
    const bytes = await perSession(() => fill(raw, MEMORY_SESSIONS, { index }));
    await checkFilled(url, index);
    figures.push({
      title: `… ${title}`,
      value: `${bytes.toFixed(0)} (${(bytes / plain).toFixed(2)} times)`,
      ...(aim && { aim: `<= ${aim}`, reached: bytes / plain <= aim }),
    });
  }
  await raw.flushall('SYNC');
}

async function fillPlain(raw, sessions) {
  for (let done = 0; done < sessions; done += 1_000) {
    say(`plain, ${count(done)}`);
    const pipeline = raw.pipeline();
    for (let n = 0; n < 1_000; n++) {
      const sid = `${newSessionId(null, PARTITIONS)}ninechars`; // 32
      pipeline.set(`sess:${sid}`, JSON_220, 'EX', IDLE_SECONDS);
    }
    await pipeline.exec();
  }
}

/** What was filled in is what the store of this mode reads. */
async function checkFilled(url, index) {
  const app = await openApp(url, {
    keyPrefix: PREFIX,
    partitions: PARTITIONS,
    cache: false,
    index,
    ...(index !== false && { sweepInterval: '1h' }),
  });
  try {
    const client = new Redis(url);
    const [, keys] = await client.scan('0', 'MATCH', `${PREFIX}*:s:*`, 'COUNT', 1_000);
    client.disconnect();
    const info = await app.registry.get(keys[0].slice(-23));
    check(info?.userId?.startsWith('user-'), 'the store reads what was filled in');
    if (index !== false) check((await app.registry.count()) === MEMORY_SESSIONS, 'and counts it');
  } finally {
    await app.close();
  }
}

/** Hash tables that are being enlarged are, a little at a time, while nothing else happens. */
async function settled(used) {
  for (let last = -1; ;) {
    const now = await used();
    if (Math.abs(now - last) < 4_096) return;
    last = now;
    await delay(500);
  }
}

// --- sweep ----------------------------------------------------------------------------------------------------------

async function measureSweep({ url, raw, store, sessions }) {
  await fill(raw, EXPIRED, { first: sessions, ended: true });
  const pinger = await startWorker('ping-worker.mjs');
  closers.push(() => pinger.stop());
  await pinger.call('open', url);
  await pinger.call('begin');
  await delay(2_000);
  const quiet = await pinger.call('end');
  await raw.config('SET', 'slowlog-log-slower-than', '1000', 'slowlog-max-len', '100000');
  await raw.slowlog('RESET');
  await pinger.call('begin');
  say('sweep');
  const began = performance.now();
  let told = 0;
  await store.sweep(() => told++, 1);
  const took = performance.now() - began;
  const { longest } = await pinger.call('end');
  await pinger.call('close');
  check(told === EXPIRED, `the sweep told of ${told} of ${EXPIRED} sessions`);
  check((await store.length()) === sessions, 'and left the others alone');
  const slow = (await raw.slowlog('GET', -1)).filter(([, , , [name]]) => name !== 'slowlog');
  const slowest = Math.max(0, ...slow.map(([, , us]) => us)) / 1_000;
  figures.push(
    { title: 'longest PING while nothing happens', value: `${quiet.longest.toFixed(1)} ms` },
    {
      title: `sweep of ${count(EXPIRED)} expired among ${count(sessions)}`,
      value: `${(took / 1_000).toFixed(1)} s (${((took * 1_000) / EXPIRED).toFixed(0)} µs each)`,
    },
    {
      title: '… longest command, as the server has it',
      value: slowest === 0 ? 'below 1 ms' : `${slowest.toFixed(1)} ms`,
      aim: `<= ${STALL_MS} ms`,
      reached: slowest <= STALL_MS,
    },
    {
      title: '… longest PING of another process',
      value: `${longest.toFixed(1)} ms`,
      aim: `<= ${STALL_MS} ms`,
      reached: longest <= STALL_MS,
    },
  );
}

function say(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

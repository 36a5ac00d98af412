// `npm run bench:registry [-- --quick] [-- --redisess folder]`
//
// What an administrator's page asks of a deployment with many sessions, one call at a time; then what ends or removes
// all of them, and how long Redis is deaf to others meanwhile. Prints figures and asserts none: it fails only when
// something did not do its work.
//
// `redisess`, whose registry ours takes its words from, is measured beside it where a folder is given in which it was
// installed: `npm install redisess ioredis putil-promisify` (the last is a dependency that it does not declare).
import { createRequire } from 'node:module';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { check, IDLE_SECONDS, makeData, newPrefix, openApp } from './kit.mjs';
import { commandStats, deleteByPrefix, openRedis, statsBetween } from './redis.mjs';
import { environment, formatFigures } from './report.mjs';
import { quantile } from './rounds.mjs';
import { startWorker } from './workers.mjs';

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean' }, redisess: { type: 'string' } },
});
const SESSIONS = options.quick ? 10_000 : 100_000;
const PER_USER = 5;
const USERS = SESSIONS / PER_USER;
const ROUNDS = options.quick ? 50 : 200;
const KILLS = options.quick ? 10 : 30;
/** Sessions of the user who is killed. */
const HEAVY = 100;
const BATCH = 200;

/** Aims in ms. */
const LIST_MS = 5;
const KILL_USER_MS = 20;
const STALL_MS = 10;

const METADATA = {
  ip: '203.0.113.7',
  userAgent: 'Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0',
};
const userOf = (index) => `user-${index % USERS}`;
const anyUser = () => userOf(Math.floor(Math.random() * USERS));

const redis = await openRedis();
const raw = new Redis(redis.url);
const pinger = await startWorker('ping-worker.mjs');
const figures = [];
try {
  console.log((await environment(raw, redis)).lines.join('\n'));
  console.log(
    `${SESSIONS.toLocaleString('en-GB')} sessions of ${USERS.toLocaleString('en-GB')} users; ` +
      `medians of ${ROUNDS} rounds, one call at a time.`,
  );
  await pinger.call('open', redis.url);
  await ours();
  if (options.redisess !== undefined) await theirs(options.redisess);
  await pinger.call('close');
} finally {
  // Also what was measured before something failed.
  say('');
  if (figures.length > 0) console.log(`\n${formatFigures(figures)}`);
  console.log(`Load at the end: ${loadavg()[0].toFixed(1)}.`);
  raw.disconnect();
  await pinger.stop();
  await redis.stop();
}

async function ours() {
  // No near cache: it has nothing to do with lists. Sweeps are called here, and timed.
  const app = await openApp(redis.url, { cache: false, sweepInterval: '1h' });
  const { service, registry, store, prefix } = app;
  const create = (userId, idleTimeout = IDLE_SECONDS * 1_000) =>
    service.create(makeData(), { userId, metadata: METADATA, idleTimeout });
  try {
    const quiet = await watched(() => delay(1_000));
    figures.push({ title: 'longest PING while nothing happens', value: ms(quiet.longest) });

    const made = await watched(() => fill('creating sessions', SESSIONS, (index) => create(userOf(index))));
    figures.push({
      title: 'creating all, 200 at a time',
      value: `${seconds(made.ms)} (${((made.ms * 1_000) / SESSIONS).toFixed(0)} µs each), ${stallOf(made)}`,
    });
    // Lists by activity first write what was noted in the second before.
    const noted = await timed(() => registry.count({ activeWithin: '15m' }));
    figures.push({ title: "count({ activeWithin: '15m' }) at once after it", value: ms(noted) });
    const [someone] = await registry.getUserSessions(userOf(0));
    const halfway = (await nth(registry, SESSIONS / 2)).cursor;

    await measure('', {
      'count()': { run: () => registry.count(), good: (found) => found === SESSIONS },
      "count({ activeWithin: '15m' })": {
        run: () => registry.count({ activeWithin: '15m' }),
        good: (found) => found === SESSIONS,
      },
      'countForUser()': { run: () => registry.countForUser(anyUser()), good: (found) => found === PER_USER },
      'getAllSessions(), first 100': {
        run: () => registry.getAllSessions({ limit: 100 }),
        good: ({ sessions, cursor }) => sessions.length === 100 && cursor !== null,
      },
      'getAllSessions(), 100 from the middle': {
        run: () => registry.getAllSessions({ limit: 100, cursor: halfway }),
        good: ({ sessions }) => sessions.length === 100,
      },
      'getAllUsers(), first 100': {
        run: () => registry.getAllUsers({ limit: 100 }),
        good: ({ users, cursor }) => users.length === 100 && cursor !== null,
      },
      'getUserSessions()': {
        run: () => registry.getUserSessions(anyUser()),
        good: (found) => found.length === PER_USER,
      },
      'get(id)': { run: () => registry.get(someone.id), good: (found) => found?.id === someone.id },
    });

    const walked = await watched(async () => {
      let count = 0;
      for await (const _ of registry.sessions()) count++;
      check(count === SESSIONS, `sessions() gave ${count} of ${SESSIONS}`);
    });
    figures.push({ title: 'sessions(), all of them', value: `${seconds(walked.ms)}, ${stallOf(walked)}` });

    const named = await watched(async () => {
      const found = new Set();
      for await (const user of registry.users()) found.add(user);
      check(found.size === USERS, `users() gave ${found.size} of ${USERS}`);
    });
    figures.push({ title: 'users(), all of them', value: `${seconds(named.ms)}, ${stallOf(named)}` });

    await killHeavy('', (user) => create(user), {
      kill: (user) => registry.killUser(user),
      left: (user) => registry.countForUser(user),
    });

    say('killAll()');
    const killed = await watched(async () => {
      const count = await registry.killAll();
      check(count === SESSIONS, `killAll() ended ${count} of ${SESSIONS}`);
    });
    addStall('killAll()', killed);
    check((await registry.count()) === 0, 'killAll() left sessions');
    await checkEmpty(prefix);

    await fill('creating sessions that expire', SESSIONS, (index) => create(userOf(index), 1_000));
    await delay(1_100);
    figures.push({
      title: `count() before a sweep of ${SESSIONS} expired`,
      value: ms(
        await timed(async () => {
          check((await registry.count()) === 0, 'what has expired is not counted');
        }),
      ),
    });
    figures.push({
      title: 'getAllSessions(), first 100, before it',
      value: ms(
        await timed(async () => {
          check((await registry.getAllSessions()).sessions.length === 0, 'what has expired is not listed');
        }),
      ),
    });
    say('sweep');
    const swept = await watched(async () => {
      let count = 0;
      await store.sweep(() => count++, 1);
      check(count === SESSIONS, `the sweep told of ${count} of ${SESSIONS} sessions`);
    });
    addStall(`sweep of ${SESSIONS} expired`, swept);
    await checkEmpty(prefix);
  } finally {
    await app.close();
    await deleteByPrefix(raw, prefix);
  }
}

/** The same of redisess. It has no parts of lists and gives ids; it lists what has expired too. */
async function theirs(folder) {
  const require = createRequire(join(folder, 'package.json'));
  const { SessionManager } = await import(
    pathToFileURL(require.resolve('redisess')).href.replace('/cjs/', '/esm/')
  );
  const client = new Redis(redis.url);
  await client.ping(); // it adds a listener for each call before the link is up
  const namespace = newPrefix().slice(0, -1);
  const fields = ['data', 'ip', 'userAgent'];
  // Its timer would wipe every second: called here, and timed.
  const sessions = new SessionManager(client, {
    namespace,
    wipeInterval: 3_600_000,
    additionalFields: fields,
  });
  const create = (user, ttl = IDLE_SECONDS) =>
    sessions.create(user, { data: JSON.stringify(makeData()), ...METADATA, ttl });
  const name = 'redisess ';
  try {
    const made = await watched(() =>
      fill('creating sessions of redisess', SESSIONS, (index) => create(userOf(index))),
    );
    figures.push({
      title: `${name}creating all`,
      value: `${seconds(made.ms)} (${((made.ms * 1_000) / SESSIONS).toFixed(0)} µs each), ${stallOf(made)}`,
    });
    await measure(name, {
      'count()': { run: () => sessions.count(), good: (found) => found === SESSIONS },
      'count(900)': { run: () => sessions.count(900), good: (found) => found === SESSIONS },
      'countForUser()': { run: () => sessions.countForUser(anyUser()), good: (found) => found === PER_USER },
      'getAllSessions(), all ids': {
        run: () => sessions.getAllSessions(),
        good: (ids) => ids.length === SESSIONS,
      },
      'getAllUsers(), all ids': { run: () => sessions.getAllUsers(), good: (ids) => ids.length === USERS },
      'getUserSessions(), ids': {
        run: () => sessions.getUserSessions(anyUser()),
        good: (ids) => ids.length === PER_USER,
      },
    });
    await killHeavy(name, create, {
      kill: (user) => sessions.killUser(user),
      left: (user) => sessions.countForUser(user),
    });
    await survives(`${name}killAll()`, () => sessions.killAll());
    await deleteByPrefix(raw, namespace);
    await fill('creating sessions of redisess that expire', SESSIONS, (index) => create(userOf(index), 1));
    await delay(2_100);
    await survives(`${name}wipe() of ${SESSIONS} expired`, () => sessions.wipe());
  } finally {
    sessions.quit();
    client.disconnect();
    await deleteByPrefix(raw, namespace);
  }
}

/** Interleaved rounds of all of them; then the commands of each, as the server counts them. */
async function measure(prefix, calls) {
  const samples = new Map(Object.keys(calls).map((title) => [title, []]));
  for (let round = -10; round < ROUNDS; round++) {
    say(`lists, round ${round}`);
    for (const [title, { run, good }] of Object.entries(calls)) {
      const began = performance.now();
      const found = await run();
      const took = performance.now() - began;
      check(good(found), `${prefix}${title} did not find what it should`);
      if (round >= 0) samples.get(title).push(took); // those before are for the compiler
    }
  }
  for (const [title, { run }] of Object.entries(calls)) {
    const before = await commandStats(raw);
    const counted = 20;
    for (let count = 0; count < counted; count++) await run();
    const stats = statsBetween(before, await commandStats(raw));
    delete stats.ping; // the other connection's
    const commands = Object.entries(stats)
      .map(([command, { calls: times }]) => `${command} ${Math.round((times / counted) * 10) / 10}`)
      .join(', ');
    const took = samples.get(title);
    const value = quantile(took, 0.5);
    const detail = `p99 ${quantile(took, 0.99).toFixed(2)}; ${commands}`;
    figures.push({
      title: prefix + title,
      value: `${ms(value)} (${detail})`,
      ...(prefix === '' && { aim: `<= ${LIST_MS} ms`, reached: value <= LIST_MS }),
    });
  }
}

async function killHeavy(prefix, create, { kill, left }) {
  const samples = [];
  for (let round = 0; round < KILLS; round++) {
    say(`killUser(), round ${round}`);
    await Promise.all(Array.from({ length: HEAVY }, () => create('heavy')));
    check((await left('heavy')) === HEAVY, 'the user has their sessions');
    samples.push(await timed(() => kill('heavy')));
    check((await left('heavy')) === 0, 'killUser() left sessions');
  }
  const value = quantile(samples, 0.5);
  figures.push({
    title: `${prefix}killUser() of ${HEAVY} sessions`,
    value: `${ms(value)} (longest ${ms(quantile(samples, 1))})`,
    ...(prefix === '' && { aim: `<= ${KILL_USER_MS} ms`, reached: value <= KILL_USER_MS }),
  });
}

/** A figure of what may fail, with the reason if it does. */
async function survives(title, work) {
  say(title);
  try {
    const done = await watched(work);
    figures.push({ title, value: `${seconds(done.ms)}, ${stallOf(done)}` });
  } catch (error) {
    figures.push({ title, value: `fails: ${error.message.split('\n')[0].slice(0, 90)}` });
  }
}

/**
 * How long it takes; the longest wait of another connection's PING, in a process of its own; and the longest command, as
 * the server itself has it: on a busy machine, a PING also waits for a processor.
 */
async function watched(work) {
  if (redis.own) {
    await raw.config('SET', 'slowlog-log-slower-than', '1000', 'slowlog-max-len', '100000');
    await raw.slowlog('RESET');
  }
  await pinger.call('begin');
  const took = await timed(work).catch(async (error) => {
    await pinger.call('end');
    throw error;
  });
  const { longest } = await pinger.call('end');
  // Emptying the log of what came before may be in it.
  const slow = redis.own ? (await raw.slowlog('GET', -1)).filter(([, , , [name]]) => name !== 'slowlog') : [];
  const slowest = slow.length === 0 ? undefined : slow.reduce((a, b) => (a[2] >= b[2] ? a : b));
  return { ms: took, longest, slowest: slowest && { ms: slowest[2] / 1_000, command: slowest[3][0] } };
}

function stallOf({ longest, slowest }) {
  const server = slowest ? `, longest command ${slowest.ms.toFixed(1)} ms (${slowest.command})` : '';
  return `longest PING ${ms(longest)}${redis.own ? server || ', no command of 1 ms' : ''}`;
}

function addStall(title, done) {
  figures.push(
    { title, value: `${seconds(done.ms)} (${((done.ms * 1_000) / SESSIONS).toFixed(0)} µs each)` },
    {
      title: '… deaf to others',
      value: stallOf(done),
      aim: `<= ${STALL_MS} ms`,
      reached: done.longest <= STALL_MS,
    },
  );
}

async function timed(work) {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

async function fill(what, count, create) {
  for (let start = 0; start < count; start += BATCH) {
    say(`${what}, ${start} of ${count}`);
    await Promise.all(
      Array.from({ length: Math.min(BATCH, count - start) }, (_, index) => create(start + index)),
    );
  }
}

/** Where a list goes on after so many. */
async function nth(registry, count) {
  let page = await registry.getAllSessions({ limit: 1_000 });
  for (let seen = 1_000; seen < count; seen += 1_000)
    page = await registry.getAllSessions({ limit: 1_000, cursor: page.cursor });
  return page;
}

/** Nothing of a session, a user or an index may be left. */
async function checkEmpty(prefix) {
  const left = [];
  let cursor = '0';
  do {
    const [next, keys] = await raw.scan(cursor, 'MATCH', `${prefix}*`, 'COUNT', 1_000);
    cursor = next;
    left.push(...keys.filter((key) => !/:(layout|sweep)$/.test(key)));
  } while (cursor !== '0');
  check(left.length === 0, `${left.length} keys are left, ${left[0]} for example`);
}

function say(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

function ms(value) {
  return `${value.toFixed(value < 10 ? 2 : 1)} ms`;
}

function seconds(value) {
  return value < 1_000 ? ms(value) : `${(value / 1_000).toFixed(1)} s`;
}

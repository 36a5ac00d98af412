// `npm run bench:memory [-- --quick | --full] [-- --json file]`
//
// What a session takes in Redis, by option and beside the other packages; what it takes in other packages' caches (ours
// is `npm run bench -- --only heap`); and whether a day's sessions leave anything behind in a process.
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { printFigures } from './figures.mjs';
import { check, createSessions, makeData, openApp } from './kit.mjs';
import { CONTENDERS } from './peers/contenders.mjs';
import { deleteByPrefix } from './redis.mjs';
import { closedLoop } from './rounds.mjs';
import { startWorker } from './workers.mjs';

const DATA_BYTES = 220;
const DAY_MS = 24 * 3_600_000;
const CACHE_ENTRIES = 10_000;
/** Parts of the day after each of which memory is looked at. */
const PARTS = 8;
/** Parts in which caches fill and the compiler settles. */
const FILLING = 3;
/** Of RSS between the parts after those: more than this is no noise of the allocator. */
const FLAT = 0.1;
const METADATA = {
  ip: '203.0.113.7',
  userAgent: 'Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0',
};

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean' }, full: { type: 'boolean' }, json: { type: 'string' } },
});
const churned = options.full ? 10_000_000 : options.quick ? 160_000 : 1_000_000;
const stored = options.quick ? 5_000 : 20_000;
const held = options.quick ? 20_000 : 100_000;

await printFigures(options, async (env) => {
  await measureRedis(env);
  await measureCaches(env);
  await measureChurn(env);
});
process.exit(); // session-token has timers that nothing stops

/** Once what was deleted has been freed, which Redis does behind the answer, and buffers have come to rest. */
async function usedMemory(raw) {
  const look = async () => Number(/^used_memory:(\d+)/m.exec(await raw.info('memory'))[1]);
  let least = await look();
  for (let unchanged = 0; unchanged < 5; unchanged++) {
    await delay(50);
    const now = await look();
    if (now < least - 1_024) unchanged = 0;
    least = Math.min(least, now);
  }
  return least;
}

async function bytesEach(raw, fill) {
  const before = await usedMemory(raw);
  await fill();
  return ((await usedMemory(raw)) - before) / stored;
}

/** Ours by option; another's as its families make them. */
async function measureRedis({ url, raw, figures }) {
  const anonymous = { userOf: () => null };
  const variants = {
    'of a user': {},
    'of a user, with address and user agent': { metadata: METADATA },
    anonymous,
    'of a user, index.activity: false': { options: { index: { activity: false } } },
    'of a user, index: false': { options: { index: false } },
    'anonymous, index: false': { ...anonymous, options: { index: false } },
  };
  await ourBytes({ url, raw }, {}); // tables grow, scripts are loaded
  for (const [title, variant] of Object.entries(variants)) {
    const bytes = await ourBytes({ url, raw }, variant);
    figures.push({
      title: `bytes in Redis, ${DATA_BYTES} bytes of data: ours, ${title}`,
      value: Math.round(bytes).toLocaleString('en-GB'),
    });
  }
  for (const [name, open] of Object.entries(CONTENDERS)) {
    if (name === 'nestjs-sessionkit') continue;
    const contender = await open({ url, raw, cached: false });
    const bytes = await bytesEach(raw, () => closedLoop(stored, 64, (index) => contender.create(index)));
    await contender.clear();
    await contender.close();
    figures.push({ title: `… ${name}`, value: Math.round(bytes).toLocaleString('en-GB') });
  }
}

async function ourBytes(
  { url, raw },
  { options: more = {}, metadata, userOf = (index) => `user-${index % 500}` },
) {
  const settings = { cache: false, ...(more.index === false ? {} : { sweepInterval: '1h' }), ...more };
  const app = await openApp(url, settings);
  try {
    return await bytesEach(raw, async () => {
      await createSessions(app.service, stored, userOf, () => makeData(1_000_000, DATA_BYTES), metadata);
      await app.registry.count({ activeWithin: '1h' }).catch(() => undefined); // what is written a moment later, now
      await delay(1_500);
    });
  } finally {
    await app.close();
    await deleteByPrefix(raw, app.prefix);
  }
}

async function measureCaches({ figures }) {
  const first = await startWorker('./peers/heap-worker.mjs', ['--expose-gc']);
  const names = await first.call('names');
  await first.stop();
  for (const name of names) {
    const node = await startWorker('./peers/heap-worker.mjs', ['--expose-gc']);
    try {
      const { heap, external } = await node.call('measure', name, held, DATA_BYTES);
      figures.push({
        title: `bytes a cached session of ${DATA_BYTES} bytes, token included: ${name}`,
        value: `${Math.round(heap + external)} (heap ${Math.round(heap)}, outside ${Math.round(external)})`,
      });
    } finally {
      await node.stop();
    }
  }
}

async function measureChurn({ figures }) {
  const node = await startWorker('churn-worker.mjs', ['--expose-gc']);
  const parts = [];
  try {
    await node.call('open', CACHE_ENTRIES, 300_000);
    for (let part = 0; part < PARTS; part++)
      parts.push(await node.call('churn', churned / PARTS, DAY_MS / churned));
    await node.call('close');
  } finally {
    await node.stop();
  }
  const last = parts.at(-1);
  check(Math.round(last.hoursPassed) === 24, `${last.hoursPassed} hours have passed`);
  check(last.expired > 0 && last.entries <= CACHE_ENTRIES, 'sessions expired, and the cache kept its bound');
  const settled = parts.slice(FILLING);
  const mib = (bytes) => (bytes / 2 ** 20).toFixed(1);
  const growth = last.rss / Math.min(...settled.map(({ rss }) => rss)) - 1;
  figures.push(
    {
      title: `24 hours, ${churned.toLocaleString('en-GB')} sessions through a cache of ${CACHE_ENTRIES}: RSS, MiB, every 3 h`,
      value: parts.map(({ rss }) => mib(rss)).join(' '),
      aim: `last <= least since hour 9 + ${FLAT * 100}%`,
      reached: growth <= FLAT,
    },
    { title: '… heap, MiB', value: parts.map(({ heapUsed }) => mib(heapUsed)).join(' ') },
    {
      title: '… sessions stored, copies held',
      value: parts.map((one) => `${one.stored}/${one.entries}`).join(' '),
    },
  );
}

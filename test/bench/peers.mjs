// `npm run bench:peers [-- --quick] [-- --only warm,get] [-- --json file]`
//
// The package beside other packages that keep sessions in Redis, beside plain caches, and beside the least work: each
// once a round, in turn. Needs the folder `peers` installed; `npm run bench:all` sees to that.
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { check } from './kit.mjs';
import { chooseOnly } from './only.mjs';
import { NOTES } from './peers/contenders.mjs';
import { coalescing, FAMILIES } from './peers/families.mjs';
import { openRedis } from './redis.mjs';
import { environment, formatFigures, formatRace, versionsOf } from './report.mjs';
import { race, ratioOf } from './rounds.mjs';

const OURS = 'nestjs-sessionkit';
const PEERS = new URL('./peers/', import.meta.url);
const VERSIONS = [
  'session-token',
  'redisess',
  'redis-sessions',
  'bentocache',
  'connect-redis',
  'redis',
  'lru-cache',
];

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean' }, only: { type: 'string' }, json: { type: 'string' } },
});
const names = chooseOnly(options.only, [...Object.keys(FAMILIES), 'together']);
const settings = options.quick
  ? { rounds: 5, sampleMs: 25, warmUpMs: 60 }
  : { rounds: 15, sampleMs: 80, warmUpMs: 1_000 };

const redis = await openRedis();
const raw = new Redis(redis.url);
const races = [];
let together = [];
try {
  const machine = await environment(raw, redis);
  const versions = versionsOf(VERSIONS, PEERS);
  console.log([...machine.lines, versions.line, ...NOTES].join('\n'));
  for (const name of names.filter((one) => Object.hasOwn(FAMILIES, one)))
    races.push(...(await runFamily(name)));
  if (names.includes('together'))
    together = await coalescing({ url: redis.url, raw }, options.quick ? 5 : 25);
  if (options.json !== undefined) {
    const facts = { ...machine.facts, ...versions.found };
    writeFileSync(
      options.json,
      `${JSON.stringify({ machine: facts, settings, races, together }, null, 2)}\n`,
    );
  }
} finally {
  // Also what was measured before something failed.
  progress('');
  for (const one of races) console.log(`\n${formatRace(one, OURS)}`);
  if (together.length > 0) console.log(`\n${formatFigures(together.map(figureOf))}`);
  raw.disconnect();
  await redis.stop();
}
process.exit(); // session-token has timers that nothing stops

async function runFamily(name) {
  const closers = [];
  const measured = [];
  const env = { url: redis.url, raw, defer: (close) => closers.push(close) };
  try {
    for (const { title, sides, aims = {}, local = false, sync = false } of await FAMILIES[name](env)) {
      for (const concurrency of sync ? [1] : [64, 1]) {
        progress(`${title}, concurrency ${concurrency}`);
        // Keys are made and removed: few enough to stay in memory.
        const limits = { ...settings, maxCount: local ? 20_000_000 : 4_000 };
        const found = await race(sides, concurrency, limits);
        const base = Object.keys(sides)[0];
        const rows = Object.entries(found).map(([side, one]) => ({
          name: side,
          ...one,
          ...ratioOf(one, found[base]),
        }));
        measured.push({
          family: name,
          title,
          concurrency,
          sync,
          aim: aims[concurrency],
          rounds: settings.rounds,
          rows,
        });
      }
    }
  } finally {
    for (const close of closers) await close();
    progress('');
  }
  return measured;
}

function figureOf({ name, commands, reads }) {
  check(reads > 0, `${name} asked Redis`);
  const list = Object.entries(commands).map(([command, calls]) => `${command}×${calls}`);
  return {
    title: `64 cold reads of one session at once: ${name}`,
    value: `${reads} ${reads === 1 ? 'read' : 'reads'} (${list.join(' ')})`,
    ...(name === OURS && { aim: '1', reached: reads === 1 }),
  };
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

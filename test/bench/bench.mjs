// `npm run bench [-- --quick] [-- --only get,create] [-- --json file]`
//
// Each operation of the package beside the least possible work that could stand in its place, in the same run; then
// what is no ratio: how soon a session ended elsewhere is refused, and what copies take in memory.
// Prints figures and asserts none: it fails only when an operation did not do its work.
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { FAMILIES } from './families.mjs';
import { MEASUREMENTS } from './measurements.mjs';
import { chooseOnly } from './only.mjs';
import { commandStats, openRedis, statsBetween } from './redis.mjs';
import { environment, formatCommands, formatFigures, formatRows } from './report.mjs';
import { compare } from './rounds.mjs';

const CONCURRENCIES = [64, 1];
/** Operations from which the commands per operation are counted. */
const COUNTED = 1_000;

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean' }, only: { type: 'string' }, json: { type: 'string' } },
});
const names = chooseOnly(options.only, [...Object.keys(FAMILIES), ...Object.keys(MEASUREMENTS)]);
const settings = options.quick
  ? { rounds: 9, sampleMs: 30, warmUpMs: 100 }
  : { rounds: 11, sampleMs: 120, warmUpMs: 400 };

const redis = await openRedis();
const raw = new Redis(redis.url);
const results = [];
const figures = [];
try {
  const machine = await environment(raw, redis);
  console.log(machine.lines.join('\n'));
  for (const name of names.filter((one) => Object.hasOwn(FAMILIES, one)))
    results.push(...(await runFamily(name)));
  for (const name of names.filter((one) => Object.hasOwn(MEASUREMENTS, one)))
    figures.push(
      ...(await MEASUREMENTS[name]({ url: redis.url, raw, quick: options.quick === true, progress })),
    );
  if (options.json !== undefined) {
    writeFileSync(
      options.json,
      `${JSON.stringify({ machine: machine.facts, settings, results, figures }, null, 2)}\n`,
    );
  }
} finally {
  // Also what was measured before something failed.
  progress('');
  if (results.length > 0) console.log(`\n${formatRows(results)}\n\n${formatCommands(results)}`);
  if (figures.length > 0) console.log(`\n${formatFigures(figures)}`);
  raw.disconnect();
  await redis.stop();
}

async function runFamily(name) {
  const closers = [];
  const measured = [];
  try {
    const rows = await FAMILIES[name]({ url: redis.url, raw, defer: (close) => closers.push(close) });
    for (const { title, against, aim, aimAlone, sync = false, local = false, maxCount, ours, base } of rows) {
      // Lookups take nanoseconds: many to a sample. Keys are made and removed: few enough to stay in memory.
      const mostPerSample = maxCount ?? (local ? 20_000_000 : 6_000);
      for (const concurrency of sync ? [1] : CONCURRENCIES) {
        progress(`${title}, concurrency ${concurrency}`);
        const figures = await compare({ ours, base }, concurrency, {
          ...settings,
          maxCount: mostPerSample,
        });
        const counted = concurrency === CONCURRENCIES[0] && !local;
        const commands = counted && { ours: await countCommands(ours), base: await countCommands(base) };
        const wanted = sync || concurrency === CONCURRENCIES[0] ? aim : aimAlone;
        measured.push({
          family: name,
          title,
          against,
          aim: wanted,
          sync,
          ...figures,
          ...(commands && { commands }),
        });
      }
    }
  } finally {
    for (const close of closers) await close();
    progress('');
  }
  return measured;
}

/** Commands per operation as the server counts them, and its own microseconds; what `prepare` asks is not counted. */
async function countCommands(side) {
  await side.prepare?.(COUNTED);
  const before = await commandStats(raw);
  await side.run(COUNTED, CONCURRENCIES[0]);
  const stats = statsBetween(before, await commandStats(raw));
  await side.verify?.(COUNTED);
  const perOp = {};
  for (const [command, { calls, usec }] of Object.entries(stats))
    perOp[command] = { calls: calls / COUNTED, usec: usec / COUNTED };
  return perOp;
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

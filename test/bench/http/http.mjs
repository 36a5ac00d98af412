// `npm run bench:http [-- --quick] [-- --only express,fastify/ours] [-- --json file] [-- --profile folder]`
//
// Requests per second of one JSON route that answers with a field of the session, beside the same route with less and
// with other session packages. Each server has a process of its own, and so has what asks them; only one is asked at
// any moment, in rounds whose order rotates. Two cores are enough: one for the server, one for the load.
// Prints figures and asserts none: it fails only when a server did not do its work.
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { openRedis } from '../redis.mjs';
import { environment } from '../report.mjs';
import { startWorker } from '../workers.mjs';
import { startContender } from './contender.mjs';
import { choose } from './contenders.mjs';
import {
  formatColdReads,
  formatCommands,
  formatRates,
  formatRatios,
  ratiosOf,
  summarize,
  versions,
} from './report.mjs';

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean' },
    only: { type: 'string' },
    json: { type: 'string' },
    profile: { type: 'string' },
  },
});
let contenders;
try {
  contenders = choose(options.only);
} catch (error) {
  console.error(error.message);
  process.exit(2);
}
/** `firstSeconds` once, until the compiler has settled; `warmUpSeconds` before each round. */
const settings = options.quick
  ? { rounds: 3, seconds: 1.5, firstSeconds: 1.5, warmUpSeconds: 0.3 }
  : { rounds: 9, seconds: 3, firstSeconds: 4, warmUpSeconds: 0.5 };

process.env.NODE_ENV = 'production'; // the servers' too
process.setMaxListeners(contenders.length + 10); // each process started here is ended on exit
// An exit runs what stops the processes; a signal alone would not.
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));

const redis = await openRedis();
const raw = new Redis(redis.url);
const execArgv = options.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${options.profile}`];
let load;
let running = [];
try {
  const { facts, lines } = await environment(raw, redis);
  const found = versions();
  // Garbage is each server's own here.
  console.log(lines.filter((line) => !line.startsWith('No --expose-gc')).join('\n'));
  console.log(
    Object.entries(found)
      .map(([name, version]) => `${name} ${version}`)
      .join(', '),
  );

  load = await startWorker('./http/load-worker.mjs');
  const env = { url: redis.url, raw, load };
  const commands = await countEach(env);
  const measured = contenders.map((contender, index) => ({
    contender,
    rounds: [],
    ...commands[index],
  }));
  await measure(measured, { ...env, execArgv });

  const results = measured.map(summarize);
  const ratios = ratiosOf(results);
  progress('');
  console.log(
    `\nRatios of requests per second: of the medians of ${settings.rounds} rounds of ${settings.seconds} s; 64 connections.`,
  );
  console.log(
    `${formatRatios(ratios)}\n\n${formatRates(results)}\n\n${formatCommands(results)}\n\n${formatColdReads(results)}`,
  );
  if (options.json !== undefined) {
    const machine = { ...facts, ...found };
    writeFileSync(
      options.json,
      `${JSON.stringify({ machine, settings, ratios, contenders: results }, null, 2)}\n`,
    );
  }
} finally {
  progress('');
  for (const one of running) await one.stop();
  await load?.stop();
  raw.disconnect();
  await redis.stop();
}

/** One server at a time, so that Redis hears of no other. */
async function countEach(env) {
  const counted = [];
  for (const contender of contenders) {
    progress(`${contender.name}, Redis commands`);
    const one = await startContender(contender, env);
    running = [one];
    const coldReads = contender.cold ? await one.countColdReads() : undefined;
    counted.push({ commands: await one.countCommands(), coldReads });
    running = [];
    await one.close();
  }
  return counted;
}

async function measure(measured, env) {
  for (const { contender } of measured) {
    progress(`${contender.name}, warm-up`);
    const one = await startContender(contender, env);
    running.push(one);
    await one.ask();
    await one.run({ seconds: settings.firstSeconds });
  }
  for (let round = 0; round < settings.rounds; round++) {
    for (let turn = 0; turn < measured.length; turn++) {
      const index = (round + turn) % measured.length;
      progress(`round ${round + 1} of ${settings.rounds}: ${measured[index].contender.name}`);
      await running[index].run({ seconds: settings.warmUpSeconds });
      measured[index].rounds.push(await running[index].run({ seconds: settings.seconds }));
      await running[index].ask();
    }
  }
  for (const one of running.splice(0)) await one.close();
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

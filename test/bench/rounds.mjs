// Interleaved measurement: A B A B …, so that whatever else the machine does falls on both sides alike.
//
// Not tinybench: it runs one task to its end before the next begins, and reads the clock around every single call,
// which costs more than the Map lookup that the cheapest rows are measured against. Here the clock is read twice per
// sample of many calls, and the two sides of a row take turns.
import { setImmediate as nextTurn } from 'node:timers/promises';

/**
 * One side of a row. `run` is timed; `prepare` and `verify` are not.
 *
 * @typedef {object} Side
 * @property {(count: number) => unknown} [prepare]
 * @property {(count: number, concurrency: number) => unknown} run does exactly `count` operations
 * @property {(count: number) => unknown} [verify] throws when the work was not done
 */

/** `count` operations, `concurrency` of them under way at any time; `operation` gets its number. */
export async function closedLoop(count, concurrency, operation) {
  let next = 0;
  const worker = async () => {
    while (next < count) await operation(next++);
  };
  await Promise.all(Array.from({ length: concurrency }, worker));
}

/** One sample: nanoseconds and own CPU microseconds per operation. */
async function sample(side, count, concurrency) {
  await side.prepare?.(count);
  // Lookups that wait for nothing keep the event loop to themselves; without a turn in between no heartbeat would be
  // sent or answered, and the near cache's lease would end in the middle of the row.
  await nextTurn();
  // The young garbage of the side before. Not all of it: a full collection also takes what the compiler knows of objects
  // that do not live just then, and all sides, raw commands among them, ran at half their speed after it. No server does
  // that between two requests.
  globalThis.gc?.({ type: 'minor' });
  const cpu = process.cpuUsage();
  const start = process.hrtime.bigint();
  await side.run(count, concurrency);
  const elapsed = Number(process.hrtime.bigint() - start);
  const { user, system } = process.cpuUsage(cpu);
  await side.verify?.(count);
  return { ns: elapsed / count, cpuUs: (user + system) / count };
}

/** Runs a side until the compiler has settled; resolves to the number of operations that take about `sampleMs`. */
async function warmUp(side, concurrency, { warmUpMs, sampleMs, maxCount }) {
  let count = 256;
  let spent = 0;
  for (;;) {
    const { ns } = await sample(side, count, concurrency);
    spent += (ns * count) / 1e6;
    const fitting = Math.ceil((sampleMs * 1e6) / ns);
    if (spent >= warmUpMs) return Math.max(256, Math.min(fitting, maxCount));
    count = Math.max(256, Math.min(count * 4, fitting, maxCount));
  }
}

/**
 * Measures any number of sides, each once a round, one after the other: A B C A B C …
 *
 * @template {string} Name
 * @param {Record<Name, Side>} sides
 * @returns {Promise<Record<Name, Measured>>}
 */
export async function race(sides, concurrency, settings) {
  const names = Object.keys(sides);
  const counts = {};
  const samples = Object.fromEntries(names.map((name) => [name, []]));
  for (const name of names) counts[name] = await warmUp(sides[name], concurrency, settings);
  for (let round = 0; round < settings.rounds; round++)
    for (const name of names) samples[name].push(await sample(sides[name], counts[name], concurrency));
  return Object.fromEntries(names.map((name) => [name, describe(samples[name], counts[name])]));
}

/**
 * Measures a row.
 *
 * `ratio` is the ratio of the medians of operations per second; `low` and `high` are the quartiles of the ratios of
 * the single rounds, each of which compares two neighbouring samples.
 */
export async function compare({ ours, base }, concurrency, settings) {
  const measured = await race({ ours, base }, concurrency, settings);
  return {
    concurrency,
    rounds: settings.rounds,
    ...measured,
    ...ratioOf(measured.ours, measured.base),
  };
}

/**
 * The first's operations per second over the second's. `byCpu` is the same by this process's own CPU time, of each side's
 * least disturbed sample: what it would be if the machine did nothing else and Redis took no time.
 */
export function ratioOf(one, other) {
  const ratios = one.samplesNs.map((ns, round) => other.samplesNs[round] / ns);
  return {
    ratio: other.usPerOp / one.usPerOp,
    low: quantile(ratios, 0.25),
    high: quantile(ratios, 0.75),
    byCpu: other.leastCpuUs / one.leastCpuUs,
  };
}

/**
 * Medians of one side's samples.
 *
 * @typedef {ReturnType<typeof describe>} Measured
 */
function describe(samples, count) {
  const ns = median(samples.map((one) => one.ns));
  return {
    opsPerSecond: 1e9 / ns,
    usPerOp: ns / 1e3,
    cpuUsPerOp: median(samples.map((one) => one.cpuUs)),
    leastCpuUs: Math.min(...samples.map((one) => one.cpuUs)),
    opsPerSample: count,
    samplesNs: samples.map((one) => one.ns),
  };
}

function median(values) {
  return quantile(values, 0.5);
}

export function quantile(values, share) {
  const sorted = values.toSorted((a, b) => a - b);
  const position = (sorted.length - 1) * share;
  const below = Math.floor(position);
  const above = Math.ceil(position);
  return sorted[below] + (sorted[above] - sorted[below]) * (position - below);
}

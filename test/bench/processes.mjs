// `npm run bench:processes [-- --quick] [-- --json file]`
//
// Eight processes that hold a copy and one that writes, on one Redis: how soon the copies go, what a write and an idle
// process cost the server, and from that what 10, 100 and 1,000 processes would. As soon as that is at most: the same with
// processes that only subscribe.
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { printFigures } from './figures.mjs';
import { check, newPrefix } from './kit.mjs';
import { quantile } from './rounds.mjs';
import { startWorker } from './workers.mjs';

const READERS = 8;
const AIM_MS = 5;
const DERIVED = [10, 100, 1_000];
const EVERY_MS = 5;
/** Sessions that are written in turn; more than are written at once. */
const SESSIONS = 256;
const CONCURRENCY = 16;

const { values: options } = parseArgs({ options: { quick: { type: 'boolean' }, json: { type: 'string' } } });
const settings = options.quick
  ? { writes: 400, flood: 4_000, idleMs: 2_500, repeats: 3 }
  : { writes: 4_000, flood: 20_000, idleMs: 10_000, repeats: 5 };

process.setMaxListeners(READERS + 20); // each process started here is ended on exit
const nodes = [];
await printFigures(options, async ({ url, raw, figures }) => {
  try {
    const prefix = newPrefix();
    const open = () => openNode(url, prefix);
    const writer = await open();
    const tokens = await writer.call('create', SESSIONS);
    const costs = [];
    for (const processes of [1, 1 + READERS / 2, 1 + READERS]) {
      while (nodes.length < processes) await open();
      costs.push({ processes, ...(await measureCost(raw, writer)) });
    }
    figures.push(...(await measureLatency(writer, nodes.slice(1), tokens[0])), ...derive(costs));
    await closeAll();
    const bare = await Promise.all(
      Array.from({ length: 1 + READERS }, () => openNode(url, prefix, 'bare-process-worker.mjs')),
    );
    const [, p99] = await measureLatency(bare[0], bare.slice(1), `${prefix}bare`);
    figures.push({ title: 'floor: the same with plain ioredis, SET and PUBLISH, p99', value: p99.value });
    await closeAll();
    return { settings, costs };
  } finally {
    await Promise.all(nodes.map((node) => node.stop()));
  }
});

/** Ends the processes that there are. */
async function closeAll() {
  await Promise.all(nodes.map((node) => node.call('close')));
  await Promise.all(nodes.splice(0).map((node) => node.stop()));
}

async function openNode(url, keyPrefix, file = 'process-worker.mjs') {
  const node = await startWorker(file);
  nodes.push(node);
  await node.call('open', url, { keyPrefix });
  return node;
}

/** Microseconds of the server's processor time since its start. */
async function serverCpu(raw) {
  const info = await raw.info('cpu');
  const seconds = (name) => Number(new RegExp(`^${name}:([\\d.]+)`, 'm').exec(info)[1]);
  return (seconds('used_cpu_user') + seconds('used_cpu_sys')) * 1e6;
}

async function cpuDuring(raw, work) {
  const [began, before] = [performance.now(), await serverCpu(raw)];
  await work();
  return { us: (await serverCpu(raw)) - before, ms: performance.now() - began };
}

async function measureCost(raw, writer) {
  const idle = await cpuDuring(raw, () => delay(settings.idleMs));
  const perWrite = [];
  for (let repeat = 0; repeat < settings.repeats; repeat++) {
    const busy = await cpuDuring(raw, () => writer.call('flood', settings.flood, CONCURRENCY));
    perWrite.push((busy.us - (idle.us / idle.ms) * busy.ms) / settings.flood);
  }
  return { usPerWrite: quantile(perWrite, 0.5), usPerIdleSecond: (idle.us / idle.ms) * 1_000 };
}

async function measureLatency(writer, readers, token) {
  await Promise.all(readers.map((reader) => reader.call('hold', token)));
  const writes = await writer.call('write', token, settings.writes, EVERY_MS);
  await delay(200); // the last message; one that is missing is found below
  const [sinceCall, sinceAnswer] = [[], []];
  for (const reader of readers) {
    await reader.call('release');
    const heard = await reader.call('heard');
    check(heard.length === writes.length, `${heard.length} of ${writes.length} writes were heard of`);
    writes.forEach(({ calledAt, answeredAt }, index) => {
      sinceCall.push(heard[index] - calledAt);
      sinceAnswer.push(Math.max(0, heard[index] - answeredAt));
    });
  }
  const ms = (value) => `${value.toFixed(2)} ms`;
  const p99 = quantile(sinceCall, 0.99);
  return [
    {
      title: `1 writer, ${READERS} readers: copy dropped after the call of save(), p50`,
      value: ms(quantile(sinceCall, 0.5)),
    },
    { title: '… p99', value: ms(p99), aim: `<= ${AIM_MS} ms`, reached: p99 <= AIM_MS },
    { title: `… the longest of ${sinceCall.length}`, value: ms(quantile(sinceCall, 1)) },
    {
      title: '… after the answer of save(), p50, p99',
      value: `${ms(quantile(sinceAnswer, 0.5))}, ${ms(quantile(sinceAnswer, 0.99))}`,
    },
  ];
}

/** A write costs the server the same whoever listens, and something for each listener; a process that idles, its heartbeats. */
function derive(costs) {
  const [alone, , all] = costs;
  const figures = [];
  for (const { processes, usPerWrite, usPerIdleSecond } of costs) {
    figures.push({
      title: `measured: ${processes} ${processes === 1 ? 'process' : 'processes'}`,
      value: `${usPerWrite.toFixed(1)} µs of Redis a save, ${usPerIdleSecond.toFixed(0)} µs a second when all idle`,
    });
  }
  const perListener = Math.max(0, (all.usPerWrite - alone.usPerWrite) / (all.processes - 1));
  const base = alone.usPerWrite - perListener;
  const perIdle = Math.max(0, (all.usPerIdleSecond - alone.usPerIdleSecond) / (all.processes - 1));
  const idleBase = Math.max(0, alone.usPerIdleSecond - perIdle);
  figures.push({
    title: 'of that, each process more',
    value: `${perListener.toFixed(2)} µs a save, ${perIdle.toFixed(0)} µs a second of heartbeats and sweeps`,
  });
  for (const processes of DERIVED) {
    const perWrite = base + perListener * processes;
    const idle = (idleBase + perIdle * processes) / 1e6;
    const most = Math.max(0, (1 - idle) * 1e6) / perWrite;
    figures.push({
      title: `derived: ${processes.toLocaleString('en-GB')} processes`,
      value:
        `${perWrite.toFixed(0)} µs of Redis a save, ${(idle * 100).toFixed(1)}% of a core when all idle, ` +
        `at most ${Math.round(most).toLocaleString('en-GB')} saves a second of all together`,
    });
  }
  return figures;
}

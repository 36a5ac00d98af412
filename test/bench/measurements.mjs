// What is no ratio: how soon a session ended elsewhere is refused, and what a copy takes in memory.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { check, createSessions, makeData, newPrefix, openApp } from './kit.mjs';
import { deleteByPrefix } from './redis.mjs';
import { quantile } from './rounds.mjs';
import { startWorker } from './workers.mjs';

/**
 * A line of the table.
 *
 * @typedef {object} Figure
 * @property {string} title
 * @property {string} value
 * @property {string} [aim] absent: for information
 * @property {boolean} [reached]
 */

/**
 * Name → function that does the work and yields its figures.
 *
 * @type {Record<string, (env: { url: string, raw: import('ioredis').Redis, quick: boolean, progress: (text: string) => void }) => Promise<Figure[]>>}
 */
export const MEASUREMENTS = { revocation, heap };

const PROCESSES = 5;
/** The default of `coherence.leaseMs`: the bound when links break. Here they do not. */
const LEASE_MS = 2_000;

/** Five processes hold a copy of a session, one ends it, the others read it every millisecond until they are refused. */
async function revocation({ url, raw, quick, progress }) {
  const rounds = quick ? 100 : 500;
  const prefix = newPrefix();
  const nodes = await Promise.all(
    Array.from({ length: PROCESSES }, () => startWorker('revocation-worker.mjs')),
  );
  const sinceCall = [];
  const sinceAnswer = [];
  let servedAfterAnswer = 0;
  try {
    await Promise.all(nodes.map((node) => node.call('open', url, { keyPrefix: prefix })));
    for (let round = 0; round < rounds; round++) {
      progress(`revocation, round ${round} of ${rounds}`);
      const ender = nodes[round % PROCESSES];
      const others = nodes.filter((node) => node !== ender);
      const token = await ender.call('create');
      await Promise.all(others.map((node) => node.call('watch', token)));
      const { calledAt, answeredAt } = await ender.call('end', token);
      for (const { refusedAt, lastServed } of await Promise.all(others.map((node) => node.call('watched')))) {
        sinceCall.push(refusedAt - calledAt);
        sinceAnswer.push(Math.max(0, refusedAt - answeredAt));
        if (lastServed > answeredAt) servedAfterAnswer++;
      }
    }
    await Promise.all(nodes.map((node) => node.call('close')));
  } finally {
    await Promise.all(nodes.map((node) => node.stop()));
    await deleteByPrefix(raw, prefix);
  }
  check(sinceCall.length === rounds * (PROCESSES - 1), 'every process refused every session');
  const p99 = quantile(sinceCall, 0.99);
  const within = sinceCall.filter((ms) => ms <= LEASE_MS).length / sinceCall.length;
  const ms = (value) => `${value.toFixed(1)} ms`;
  return [
    {
      title: `ended in 1 of ${PROCESSES} processes, refused in the others, p50`,
      value: ms(quantile(sinceCall, 0.5)),
    },
    { title: '… from the call of destroy(), p99', value: ms(p99), aim: '<= 20 ms', reached: p99 <= 20 },
    { title: `… the longest of ${sinceCall.length}`, value: ms(quantile(sinceCall, 1)) },
    { title: '… within leaseMs', value: percent(within), aim: '100%', reached: within === 1 },
    { title: '… from the answer of destroy(), p99', value: ms(quantile(sinceAnswer, 0.99)) },
    { title: '… served once more after that answer', value: percent(servedAfterAnswer / sinceAnswer.length) },
  ];
}

const DATA_BYTES = 220;
/** With other cookies beside the session's, as headers are. */
const COOKIE_LENGTH = 420;
/** A copy all told; in files what stays in memory is no less, and the file system's own is not counted. */
const AIM_BYTES = 700;

/** Collecting the garbage of all copies takes its time; a lease that ended meanwhile would refuse copies. */
const PATIENT = { leaseMs: 60_000 };

/** Sessions read from Redis into the near cache of a process that does nothing else. */
async function heap({ url, raw, quick, progress }) {
  const count = quick ? 20_000 : 100_000;
  const prefix = newPrefix();
  const writer = await openApp(url, { keyPrefix: prefix, cache: false });
  const directory = mkdtempSync(join(tmpdir(), 'sessionkit-bench-files-'));
  try {
    progress(`heap, making ${count * 1.5} sessions`);
    const data = makeData(1_000_000, DATA_BYTES);
    check(JSON.stringify(data).length === DATA_BYTES, 'the data has its size');
    const userOf = (index) => `user-${index}`;
    const tokens = await createSessions(writer.service, count * 1.5, userOf, () => data);
    const bytes = Buffer.from(tokens.join(''), 'latin1');
    const memory = { maxEntries: count, maxAge: '1h' };
    const rows = [];
    const kinds = [
      { title: `in memory, ${DATA_BYTES} bytes of data`, cookieLength: 0, cache: memory, aims: true },
      {
        title: `in files, ${DATA_BYTES} bytes of data`,
        cookieLength: 0,
        cache: { ...memory, type: 'file', directory },
        aims: true,
      },
      {
        title: `in memory, tokens cut from Cookie headers of ${COOKIE_LENGTH}`,
        cookieLength: COOKIE_LENGTH,
        cache: memory,
        aims: false,
      },
    ];
    for (const { cache, ...kind } of kinds) {
      progress(`heap, ${kind.title}`);
      const options = { keyPrefix: prefix, cache, coherence: PATIENT };
      rows.push(...(await measureHeap({ ...kind, url, count, bytes, options })));
    }
    return rows;
  } finally {
    await writer.close();
    rmSync(directory, { recursive: true, force: true });
    await deleteByPrefix(raw, prefix);
  }
}

async function measureHeap({ title, cookieLength, aims, url, count, bytes, options }) {
  const node = await startWorker('heap-worker.mjs', ['--expose-gc']);
  try {
    await node.call('take', bytes);
    const before = await node.call('open', url, options);
    const full = await node.call('fill', 0, count, cookieLength);
    check(full.entries === count, `${full.entries} of ${count} sessions are held`);
    const over = aims ? await node.call('fill', count, count * 1.5, cookieLength) : undefined;
    await node.call('close');
    // `external` includes `arrayBuffers`.
    const perSession = (full.heapUsed - before.heapUsed + full.external - before.external) / count;
    const part = (name) => Math.round((full[name] - before[name]) / count);
    const detail = `heap ${part('heapUsed')}, outside ${part('external')}, rss ${part('rss')}`;
    const size = {
      title: `bytes a copy, ${title}`,
      value: `${Math.round(perSession)} (${detail})`,
      ...(aims && { aim: `<= ${AIM_BYTES}`, reached: perSession <= AIM_BYTES }),
    };
    if (over === undefined) return [size];
    const bound = {
      title: `… held of ${count * 1.5} sessions, maxEntries ${count}`,
      value: `${over.entries} (${over.evictions} made room)`,
      aim: `<= ${count}`,
      reached: over.entries <= count && over.evictions > 0,
    };
    return [size, bound];
  } finally {
    await node.stop();
  }
}

const percent = (share) => `${(share * 100).toFixed(share === 1 ? 0 : 2)}%`;

// COHERENCE test 10: a Cluster whose slots change their master, judged by the oracle. One reader has the full protocol, the
// other lacks a part of it and must be caught: what it lacks is said at each test. A write that the Cluster itself loses
// in a failover is no staleness: see `support/sentinel-writer.mjs`.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { SessionModuleOptions } from '../../lib/index.js';
import { partitionOfId } from '../../lib/core/session-token.js';
import { openNode, type SessionNode } from '../integration/session-node.js';
import { ClusterSet } from '../support/cluster.js';
import { NodeWorker } from '../support/node-worker.js';
import { uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { now } from './support/machine-clock.mjs';

const COHERENCE = { leaseMs: 1_000, heartbeatMs: 250 };
const PARTITIONS = 16;
const BEFORE_MS = 800;
const AFTER_MS = 2_500;
/** So many that each is written only once in a few seconds: the next message would heal what the last one missed. */
const SESSIONS = 2_000;

interface Report {
  reads: number;
  hits: number;
  worstMs: number;
  over: number;
  overEnded: number;
  overCache: number;
  wrongNulls: number;
  errors: Record<string, number>;
  samples: unknown[];
}
interface Counts {
  writes: number;
  lost: number;
  ends: number;
  endsInDoubt: number;
  errors: Record<string, number>;
}

describe('Cluster', () => {
  let cluster: ClusterSet;
  beforeAll(async () => {
    cluster = await ClusterSet.start();
  }, 60_000);
  afterAll(() => cluster?.stop());

  const closing: (() => Promise<unknown>)[] = [];
  afterEach(async () => {
    for (const close of closing.splice(0).toReversed()) await close();
  });

  async function startWorker(file: string): Promise<NodeWorker> {
    const worker = await NodeWorker.start(new URL(`./support/${file}`, import.meta.url));
    closing.push(() => worker.kill());
    return worker;
  }
  const runFor = (ms: number): Promise<unknown> => {
    const begun = now();
    return waitFor(() => now() - begun >= ms, { timeoutMs: ms + 5_000 });
  };
  /** A session in each partition. */
  async function oneEach({ sessions }: SessionNode): Promise<string[]> {
    const tokens = new Map<number, string>();
    while (tokens.size < PARTITIONS) {
      const { id, token } = await sessions.create({});
      tokens.set(partitionOfId(id, PARTITIONS)!, token);
    }
    return [...tokens.values()];
  }
  /** Milliseconds until every partition takes a write. */
  async function untilWritable({ sessions }: SessionNode, tokens: readonly string[]): Promise<number> {
    const begun = now();
    await Promise.all(
      tokens.map((token) =>
        waitFor(
          () =>
            sessions.update(token, { at: 1 }).then(
              () => true,
              () => false,
            ),
          { timeoutMs: 20_000, intervalMs: 5, message: 'a partition to take a write' },
        ),
      ),
    );
    return now() - begun;
  }

  /** Faults one after the other under load; each gives back the time from which the Cluster was able to serve again. */
  async function run(
    name: string,
    weaken: 'naive' | 'unkeyed',
    faults: readonly (() => Promise<unknown>)[],
  ): Promise<void> {
    const [writer, full, weak] = await Promise.all([
      startWorker('sentinel-writer.mjs'),
      startWorker('reader-worker.mjs'),
      startWorker('reader-worker.mjs'),
    ]);
    const options: SessionModuleOptions = {
      redis: { cluster: cluster.nodes },
      keyPrefix: uniquePrefix(),
      coherence: COHERENCE,
    };
    const created = await writer.call<(number | string)[]>(
      'boot',
      { ...options, cache: false },
      { sessions: SESSIONS, doomed: 400 },
    );
    const readers = [full, weak];
    const pace = { burst: 20, everyMs: 4 };
    await full.call('boot', options, { weaken: 'none', bound: COHERENCE.leaseMs, pace });
    await weak.call('boot', options, { weaken, bound: COHERENCE.leaseMs, pace });
    const probe = await openNode({ ...options, cache: false });
    closing.push(() => probe.close());
    const tokens = await oneEach(probe);
    const isLive = async (): Promise<boolean> =>
      (await full.call<{ state: string }>('state')).state === 'live';
    await waitFor(isLive, { message: 'the subscriptions' });
    for (const reader of readers) {
      await reader.call('learn', { created, acks: [], ended: [], upTo: 0 });
      await reader.call('start');
    }
    await writer.call('start', { lanes: 4, pauseMs: 4, endEveryMs: 40 });
    await runFor(BEFORE_MS);

    const recoveries: string[] = [];
    for (const fault of faults) {
      if (weaken === 'naive') weak.pause();
      const faultAt = now();
      const writable = (async () => {
        await runFor(20);
        return untilWritable(probe, tokens);
      })();
      await fault();
      await writable;
      const writableAt = now();
      await waitFor(isLive, { timeoutMs: 10_000, intervalMs: 5, message: 'all leases again' });
      recoveries.push(
        `${(writableAt - faultAt).toFixed(0)} ms, leases ${(now() - writableAt).toFixed(0)} ms later`,
      );
      expect(now() - faultAt).toBeLessThan(10_000);
      if (weaken === 'naive') {
        await runFor(400); // it misses messages for certain
        weak.resume();
      }
      await runFor(AFTER_MS);
    }

    const judged = await writer.call<{ counts: Counts; upTo: number }>('stop');
    const reports: Report[] = [];
    for (const reader of readers) {
      await reader.call('stop');
      await reader.call('learn', judged);
      reports.push(await reader.call<Report>('report'));
    }
    const [strict, weakened] = reports as [Report, Report];
    const shown = ({ samples, worstMs, ...report }: Report): string =>
      JSON.stringify({
        ...report,
        worstMs: Math.round(worstMs),
        samples: report.over > 0 ? samples.slice(0, 2) : [],
      });
    process.stdout.write(
      `Cluster, ${name}: all partitions writable after ${recoveries.join('; ')}; bound ${COHERENCE.leaseMs} ms\n` +
        `  full:     ${shown(strict)}\n  weakened: ${shown(weakened)}\n  writer:   ${JSON.stringify(judged.counts)}\n`,
    );
    expect(strict).toMatchObject({ over: 0, wrongNulls: 0 });
    expect(strict.hits).toBeGreaterThan(1_000);
    expect(weakened.overCache).toBeGreaterThan(0);
    expect(judged.counts.writes).toBeGreaterThan(200);
    expect(judged.counts.ends).toBeGreaterThan(5);
    expect(
      Object.keys({ ...judged.counts.errors, ...strict.errors }).filter(
        (code) => !/UNAVAILABLE|REPLICATED/.test(code),
      ),
    ).toEqual([]);
    for (const worker of [writer, ...readers]) {
      await worker.call('close');
      await worker.stop(); // rejects if it has crashed
    }
  }

  const ownerOfPartition = async (partition: number) =>
    cluster.ownerOf(await cluster.slotOf(`{${partition}}`));

  // Without keyed heartbeats, and not told where commands go: the former owner answers, being master of other slots.
  it('the migration of a slot and two CLUSTER FAILOVERs', () =>
    run('a migration and two failovers', 'unkeyed', [
      async () => {
        const slot = await cluster.slotOf('{0}');
        const source = await cluster.ownerOf(slot);
        const target = (
          await Promise.all(Array.from({ length: PARTITIONS }, (_, p) => ownerOfPartition(p)))
        ).find((owner) => owner !== source)!;
        await cluster.migrate(slot, target);
      },
      async () => cluster.failover(await ownerOfPartition(0)),
      async () => cluster.failover(await ownerOfPartition(0)), // and back
    ]));

  // Without epochs and leases: plain pub/sub, in a process that was frozen meanwhile.
  it('SIGKILL of a master', () =>
    run('SIGKILL', 'naive', [
      async () => {
        const master = await ownerOfPartition(0);
        await master.kill();
      },
    ]));
});

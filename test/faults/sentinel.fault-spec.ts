// COHERENCE test 11: failovers under Sentinel, judged by the oracle. One reader lives through each of them as it comes. Two
// more are frozen from the fault until the writer is at work on the new master, so that they miss messages for certain:
// one with the full protocol, and one weakened (copies outlive the epoch they were stored in, and no lease is needed to
// serve them: plain pub/sub). A write that Redis itself loses is no staleness: see `support/sentinel-writer.mjs`.
import { Redis, type RedisOptions } from 'ioredis';
import { afterEach, describe, expect, it } from 'vitest';
import type { SessionModuleOptions } from '../../lib/index.js';
import { openNode } from '../integration/session-node.js';
import { NodeWorker } from '../support/node-worker.js';
import { uniquePrefix } from '../support/redis-url.js';
import { SentinelSet } from '../support/sentinel.js';
import { waitFor } from '../support/wait-for.js';
import { now } from './support/machine-clock.mjs';

const COHERENCE = { leaseMs: 1_000, heartbeatMs: 250 };
/** From the moment all sentinels name the new master and it says so itself, until copies answer again. */
const BACK_WITHIN_MS = 3_000;
const BEFORE_MS = 800;
const AFTER_MS = 2_000;
const FROZEN_LONGER_MS = 400;
/** So many that each is written only once in a few seconds: the next message would heal what the last one missed. */
const SESSIONS = 2_000;

interface State {
  live: boolean;
  state: string;
  epoch: number;
  hits: number;
  quietHits: number;
  quietMisses: number;
  cache: { entries: number };
}
interface Report {
  reads: number;
  hits: number;
  worstMs: number;
  over: number;
  /** Those of them that should have been refused. */
  overEnded: number;
  /** Those of them that came out of the near cache. */
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
  lastWrite: number;
  longestPause: number;
  errors: Record<string, number>;
}

describe('Sentinel', () => {
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

  /** One failover, from quiet to quiet; `fault` resolves when it has begun, `after` runs once copies answer again. */
  async function run(
    name: string,
    fault: (set: SentinelSet) => Promise<unknown>,
    after: (set: SentinelSet) => Promise<unknown> = async () => undefined,
  ): Promise<void> {
    const [set, writer, full, frozen, weak] = await Promise.all([
      SentinelSet.start(),
      startWorker('sentinel-writer.mjs'),
      startWorker('reader-worker.mjs'),
      startWorker('reader-worker.mjs'),
      startWorker('reader-worker.mjs'),
    ]);
    closing.push(() => set.stop());
    const options: SessionModuleOptions = {
      redis: set.address,
      keyPrefix: uniquePrefix(),
      coherence: COHERENCE,
    };
    const created = await writer.call<(number | string)[]>(
      'boot',
      { ...options, cache: false },
      { sessions: SESSIONS, doomed: 400 },
    );
    const readers = [full, frozen, weak];
    const pace = { burst: 20, everyMs: 4 };
    await Promise.all([
      full.call('boot', options, { weaken: 'none', bound: COHERENCE.leaseMs, pace }),
      frozen.call('boot', options, { weaken: 'none', bound: COHERENCE.leaseMs, pace }),
      weak.call('boot', options, { weaken: 'naive', bound: COHERENCE.leaseMs, pace }),
    ]);
    const state = (): Promise<State> => full.call<State>('state');
    await waitFor(async () => (await state()).state === 'live', { message: 'the subscription' });
    for (const reader of readers) {
      await reader.call('learn', { created, acks: [], ended: [], upTo: 0 });
      await reader.call('start');
    }
    await writer.call('start', { lanes: 4, pauseMs: 4, endEveryMs: 40 });
    await runFor(BEFORE_MS);

    const former = await set.masterPort();
    const { epoch, hits } = await state();
    expect(hits).toBeGreaterThan(0);
    const faultAt = now();
    for (const reader of [frozen, weak]) reader.pause();
    await fault(set);
    const master = await set.promoted(former);
    const promotedAt = now();
    const back = await waitFor(
      async () => {
        const seen = await state();
        if (seen.epoch === epoch || !seen.live) return null;
        const again = await state(); // copies answer, and not only might
        return again.live && again.hits > seen.hits && again.epoch === seen.epoch ? now() : null;
      },
      { timeoutMs: 6_000, intervalMs: 5, message: 'copies to answer again' },
    ).catch(async (error: unknown) => {
      const seen = JSON.stringify([await state(), await full.call('report'), await writer.call('counts')]);
      throw new Error(`${(error as Error).message}; ${promotedAt - faultAt} ${promotedAt} ${seen}`, {
        cause: error,
      });
    });
    await waitFor(
      async () => (await writer.call<Counts>('counts')).lastWrite > promotedAt + FROZEN_LONGER_MS,
      {
        message: 'the writer to be at work again',
      },
    );
    await writer.call('calm');
    await runFor(FROZEN_LONGER_MS); // some sessions end while those two cannot hear of it
    for (const reader of [frozen, weak]) reader.resume();
    await after(set);
    await runFor(AFTER_MS);
    expect(await set.masterPort()).toBe(master.port);

    const judged = await writer.call<{ counts: Counts; upTo: number }>('stop');
    const reports: Report[] = [];
    for (const reader of readers) {
      await reader.call('stop');
      await reader.call('learn', judged);
      reports.push(await reader.call<Report>('report'));
    }
    const [strict, thawed, weakened] = reports as [Report, Report, Report];
    const shown = ({
      reads,
      hits: fromCache,
      worstMs,
      over,
      overEnded,
      overCache,
      wrongNulls,
      errors,
      samples,
    }: Report) => ({
      reads,
      hits: fromCache,
      worstMs: Math.round(worstMs),
      over,
      overEnded,
      overCache,
      wrongNulls,
      errors,
      samples: over > 0 ? samples.slice(0, 2) : undefined,
    });
    process.stdout.write(
      `Sentinel, ${name}: promoted ${(promotedAt - faultAt).toFixed(0)} ms after the fault, copies answer ` +
        `${(back - promotedAt).toFixed(0)} ms after that; bound ${COHERENCE.leaseMs} ms\n` +
        `  full:             ${JSON.stringify(shown(strict))}\n` +
        `  full, frozen:     ${JSON.stringify(shown(thawed))}\n` +
        `  weakened, frozen: ${JSON.stringify(shown(weakened))}\n` +
        `  writer:           ${JSON.stringify(judged.counts)}\n`,
    );
    expect(strict).toMatchObject({ over: 0, wrongNulls: 0 });
    // A process that slept through a failover in which the old master stayed up reads from that one's store until it has
    // heard of the new one, some milliseconds after it woke: that is the store's answer, and not a copy.
    expect(thawed).toMatchObject({ overCache: 0, wrongNulls: 0 });
    for (const { hits: fromCache } of [strict, thawed]) expect(fromCache).toBeGreaterThan(1_000);
    expect(back - promotedAt).toBeLessThanOrEqual(BACK_WITHIN_MS);
    expect(weakened.overCache).toBeGreaterThan(0);
    expect(judged.counts.writes).toBeGreaterThan(200);
    expect(judged.counts.ends).toBeGreaterThan(5);
    for (const worker of [writer, ...readers]) {
      await worker.call('close');
      await worker.stop(); // rejects if it has crashed
    }
  }

  it('SIGKILL of the master', () => run('SIGKILL', async (set) => (await set.master()).kill()));

  it('SIGSTOP of the master, which comes back as a replica', async () => {
    let stopped: Awaited<ReturnType<SentinelSet['master']>> | undefined;
    await run(
      'SIGSTOP',
      async (set) => {
        stopped = await set.master();
        await stopped.pause();
      },
      async (set) => {
        stopped?.resume();
        await set.settled(15_000);
      },
    );
  });

  it('SENTINEL FAILOVER while the master is well', () => run('FAILOVER', (set) => set.failover()));

  // ioredis closes a connection for good when the notice of a failover comes while it asks the sentinels for the master:
  // as it is, after a socket timeout on the master that has just died.
  it('a failover notice in the middle of a reconnection does not end the connection', async () => {
    const set = await SentinelSet.start();
    closing.push(() => set.stop());
    const clients: Redis[] = [];
    class WatchedRedis extends Redis {
      override duplicate(override?: Partial<RedisOptions>): Redis {
        const client = super.duplicate(override);
        clients.push(client);
        return client;
      }
    }
    const redis = new WatchedRedis({ ...set.address, lazyConnect: true });
    closing.push(async () => redis.disconnect());
    const node = await openNode({ redis, keyPrefix: uniquePrefix(), coherence: COHERENCE });
    closing.push(() => node.close());
    const { token } = await node.sessions.create({});
    expect(clients).toHaveLength(2); // C and S
    for (const client of clients) {
      client.disconnect(true);
      await waitFor(() => client.status === 'connecting', { intervalMs: 0 });
      // What its failover detector does on +switch-master.
      (client as unknown as { connector: { disconnect(): void } }).connector.disconnect();
      await waitFor(() => client.status === 'ready', { timeoutMs: 3_000, message: 'a connection again' });
    }
    await waitFor(() => node.subscriber.live);
    await node.sessions.get(token);
    expect(await node.sessions.get(token)).toMatchObject({ source: 'cache' });
  });
});

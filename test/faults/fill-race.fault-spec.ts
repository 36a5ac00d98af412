// COHERENCE test 8: the command link is slow (1 to 12 ms each way), invalidations are not, so the message about a
// change overtakes the answer that lacks it. Weakened: tickets that nothing voids, so
// that every fill is granted (rule 6 without the ticket).
import { randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openNode, type SessionNode } from '../integration/session-node.js';
import { uniquePrefix } from '../support/redis-url.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';

/** More sessions rather than more rounds: a round takes as long as the link is slow, however many take part. */
const SESSIONS = 400;
const SLOWEST_MS = 12;

interface Result {
  writes: number;
  /** Copies found when all messages were in. */
  cached: number;
  /** Those among them that were older than the last write. */
  poisoned: number;
  refused: number;
}

describe('fill race', () => {
  let server: RedisServer;
  const closing: (() => Promise<unknown>)[] = [];

  beforeAll(async () => {
    server = await RedisServer.start();
  });
  afterAll(() => server.stop());
  afterEach(async () => {
    for (const close of closing.splice(0).toReversed()) await close();
  });

  async function openBoth(): Promise<{ reader: SessionNode; writer: SessionNode }> {
    const link = await TcpProxy.start({ targetPort: server.port });
    closing.push(() => link.close());
    const slow = (): number => randomInt(1, SLOWEST_MS + 1);
    const options = { keyPrefix: uniquePrefix(), subscriber: server.url, commandTimeout: '5s' };
    const reader = await openNode({ ...options, redis: link.url });
    closing.push(() => reader.close());
    const writer = await openNode({ ...options, redis: server.url, cache: false });
    closing.push(() => writer.close());
    link.delay({ upstreamMs: slow, downstreamMs: slow });
    return { reader, writer };
  }

  /** Rounds of one read against one write elsewhere, for each session. */
  async function race(reader: SessionNode, writer: SessionNode, writes: number): Promise<Result> {
    const sessions = await Promise.all(
      Array.from({ length: SESSIONS }, () => writer.sessions.create({ n: 0 })),
    );
    const result = { writes: 0, cached: 0, poisoned: 0 };
    for (let n = 1; result.writes < writes; n++) {
      await Promise.all(
        sessions.map(async ({ token }) => {
          // Spread, or all reads would travel in one packet and be delayed alike.
          await delay(randomInt(8));
          const reading = reader.sessions.get(token);
          await delay(randomInt(2 * SLOWEST_MS)); // before, during or after the read
          await writer.sessions.update(token, { n });
          await reading;
        }),
      );
      result.writes += SESSIONS;
      await waitFor(() => reader.subscriber.counts.messages >= n * SESSIONS, { intervalMs: 1 });
      for (const { token, id } of sessions) {
        const copy = reader.sessions.getCached(token);
        if (copy !== null) result.cached++;
        if (copy !== null && Number(copy.data.n) < n) result.poisoned++;
        reader.cache.delete(id); // so that every round begins with a miss
      }
    }
    return { ...result, refused: reader.cache.stats().refusedFills };
  }

  it('12,000 writes poison no copy', async () => {
    const { reader, writer } = await openBoth();
    const result = await race(reader, writer, 12_000);
    process.stdout.write(`fill race, guarded: ${JSON.stringify(result)}\n`);
    expect(result.poisoned).toBe(0);
    // Reads were overtaken, and others were not.
    expect(result.refused).toBeGreaterThan(1_000);
    expect(result.cached).toBeGreaterThan(1_000);
  });

  it('without the guard the same race poisons more than 10 copies', async () => {
    const { reader, writer } = await openBoth();
    const { cache } = reader;
    const guarded = cache.reserve.bind(cache);
    // No ticket is ever voided: whatever is told while a read is under way, its answer is stored.
    cache.reserve = (id) =>
      Object.defineProperties(guarded(id), {
        min: { get: () => -1, set: () => {} },
        open: { get: () => true, set: () => {} },
      });
    const result = await race(reader, writer, 2_000);
    process.stdout.write(`fill race, unguarded: ${JSON.stringify(result)}\n`);
    expect(result.poisoned).toBeGreaterThan(10);
  });
});

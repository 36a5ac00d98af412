// COHERENCE test 12: sessions with short lives under tokens of the app's own, which one process ends, lets expire,
// touches and creates anew, while another one keeps copies of them. A copy never outlives the session in Redis, and never
// shows an earlier incarnation after the bound. Weakened: copies are served whatever their deadline; and: ends and
// creations are not heard.
import { randomInt } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openNode, recordKey, type Fields, type SessionNode } from '../integration/session-node.js';
import { GRACE_MS } from '../../lib/store/scripts/parts.lua.js';
import type { ActiveSession, SessionModuleOptions } from '../../lib/index.js';
import { RedisServer } from '../support/redis-server.js';
import { uniquePrefix } from '../support/redis-url.js';
import { TcpProxy } from '../support/tcp-proxy.js';

const COHERENCE = { leaseMs: 250, heartbeatMs: 60 };
const TOKENS = 60;
const ROUNDS = 50;
const MAX_LIFE_MS = 120;

/** What the writer knows of one token. Times are those of `Date.now()`, which is the clock of Redis too: one machine. */
interface Life {
  readonly token: string;
  /** Counts the sessions that the token has stood for. */
  incarnation: number;
  /** When the creation of the current one was acknowledged; Infinity while it is under way. */
  createdAt: number;
  /** When its end was begun; Infinity while it lives. */
  endBegun: number;
  /** When its end was acknowledged. */
  endedAt: number;
  /** The latest logical deadline that each incarnation has ever had; Infinity while a touch is under way. */
  readonly deadlines: number[];
}

interface Tally {
  reads: number;
  hits: number;
  /** Served although its deadline had passed when the read began. */
  expired: number;
  /** Served although a later incarnation, or its end, had been acknowledged longer than the bound before. */
  earlier: number;
  /** The greatest such age, whatever the bound. */
  worstMs: number;
  /** Not found although it had been there for longer than the bound, and still was. */
  missing: number;
}

describe('the near cache against expiry and re-created ids', () => {
  let server: RedisServer;
  let redis: Redis;
  const closing: (() => Promise<unknown>)[] = [];

  beforeAll(async () => {
    server = await RedisServer.start();
    redis = new Redis(server.url);
  });
  afterAll(async () => {
    redis.disconnect();
    await server.stop();
  });
  afterEach(async () => {
    for (const close of closing.splice(0).toReversed()) await close();
  });

  async function run(weaken: (reader: SessionNode) => void, rounds: number): Promise<Tally> {
    const keyPrefix = uniquePrefix();
    // The reader's own link is slow, so that its fills meet what the writer does.
    const link = await TcpProxy.start({ targetPort: server.port });
    closing.push(() => link.close());
    const options: SessionModuleOptions = {
      keyPrefix,
      allowGivenTokens: true,
      touchInterval: 0,
      coherence: COHERENCE,
      subscriber: server.url,
    };
    const reader = await openNode({ ...options, redis: link.url });
    closing.push(() => reader.close());
    const writer = await openNode({ ...options, redis: server.url, cache: false });
    closing.push(() => writer.close());
    link.delay({ upstreamMs: () => randomInt(4), downstreamMs: () => randomInt(4) });
    weaken(reader);

    const tally: Tally = { reads: 0, hits: 0, expired: 0, earlier: 0, worstMs: 0, missing: 0 };
    const lives = Array.from({ length: TOKENS }, (_, index): Life => ({
      token: `given-token-number-${index}`,
      incarnation: 0,
      createdAt: Infinity,
      endBegun: Infinity,
      endedAt: Infinity,
      deadlines: [],
    }));
    let going = true;
    await Promise.all([
      ...lives.map((life) => read(reader, life, () => going, tally)),
      Promise.all(lives.map((life) => live(writer, keyPrefix, life, rounds))).then(() => (going = false)),
    ]);
    return tally;
  }

  /** Lives through so many incarnations of one token. */
  async function live(writer: SessionNode, prefix: string, life: Life, rounds: number): Promise<void> {
    const { token, deadlines } = life;
    for (let round = 1; round <= rounds; round++) {
      deadlines[round] = Infinity;
      life.createdAt = life.endBegun = life.endedAt = Infinity;
      life.incarnation = round;
      const session = await writer.sessions.create(
        { incarnation: round },
        { token, idleTimeout: `${randomInt(20, MAX_LIFE_MS)}ms` },
      );
      life.createdAt = Date.now();
      deadlines[round] = session.expiresAt ?? 0;
      if (round % 10 === 0) {
        const expires = await redis.pexpiretime(recordKey(prefix, session.id));
        expect(expires - GRACE_MS).toBe(session.expiresAt);
      }
      await delay(randomInt(MAX_LIFE_MS / 3)); // some of its life
      const choice = randomInt(4);
      if (choice >= 2) {
        // Only extends the deadline, so nobody is told; a write is announced.
        deadlines[round] = Infinity;
        const seen: ActiveSession<Fields> | null =
          choice === 2
            ? await writer.sessions.touch(token)
            : await writer.sessions.update(token, { written: true }).catch(() => null);
        deadlines[round] = seen?.expiresAt ?? session.expiresAt ?? 0;
        await delay(randomInt(10)); // more of it
      }
      if (choice % 2 === 0) {
        life.endBegun = Date.now();
        await writer.sessions.destroy(token);
        life.endedAt = Date.now();
        if (randomInt(2) === 0) await delay(randomInt(20)); // sometimes there is none for a while
      } else {
        // Past the deadline by the clock of Redis: it is the same one.
        await delay(Math.max(0, (deadlines[round] ?? 0) - Date.now()) + 1);
      }
    }
  }

  async function read(reader: SessionNode, life: Life, going: () => boolean, tally: Tally): Promise<void> {
    while (going()) {
      const begun = Date.now();
      const before = { ...life };
      const session = await reader.sessions.get(life.token);
      const now = Date.now();
      tally.reads++;
      if (session === null) {
        const there =
          life.incarnation === before.incarnation &&
          life.endBegun === Infinity &&
          now < (life.deadlines[life.incarnation] ?? 0);
        if (there && begun - before.createdAt > COHERENCE.leaseMs) tally.missing++;
      } else {
        if (session.source === 'cache') tally.hits++;
        const shown = Number(session.data.incarnation);
        if (begun >= (life.deadlines[shown] ?? 0)) tally.expired++;
        const over =
          shown < before.incarnation
            ? begun - before.createdAt
            : shown === before.incarnation
              ? begun - before.endedAt
              : 0;
        tally.worstMs = Math.max(tally.worstMs, over);
        if (over > COHERENCE.leaseMs) tally.earlier++;
      }
      await delay(randomInt(3)); // the pace of the reads
    }
  }

  const print = (name: string, tally: Tally): void =>
    void process.stdout.write(
      `${TOKENS} given tokens, ${name}, bound ${COHERENCE.leaseMs} ms: ${JSON.stringify(tally)}\n`,
    );

  it('3,000 incarnations: no copy outlives its session or shows an earlier one', async () => {
    const tally = await run(() => undefined, ROUNDS);
    print('full', tally);
    expect(tally).toMatchObject({ expired: 0, earlier: 0, missing: 0 });
    expect(tally.hits).toBeGreaterThan(1_000);
  });

  it('with copies that are served past their deadline it does', async () => {
    const tally = await run(({ cache }) => {
      const get = cache.get.bind(cache);
      cache.get = (token) => cache.peek(token) ?? get(token);
    }, 8);
    print('deadlines ignored', tally);
    expect(tally.expired).toBeGreaterThan(0);
  });

  it('with announcements that are not heard it shows earlier ones', async () => {
    const tally = await run(({ cache }) => {
      cache.invalidate = () => undefined;
      const get = cache.get.bind(cache);
      cache.get = (token) => cache.peek(token) ?? get(token);
    }, 8);
    print('deaf', tally);
    expect(tally.earlier).toBeGreaterThan(0);
  });
});

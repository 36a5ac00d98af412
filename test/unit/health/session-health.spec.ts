// What SessionHealthIndicator says of any store, and of the near cache's lease.
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { SessionHealthIndicator } from '../../../lib/health/index.js';
import type { LoadedSession, RedisSubscriber, SubscriberState } from '../../../lib/index.js';
import { WrappedStore } from '../../e2e/support/wrapped-store.js';
import { partitionOfId } from '../../../lib/core/session-token.js';

/** A store whose reads end as the test wants. */
class AnsweringStore extends WrappedStore {
  state: 'closed' | 'open' | undefined;
  asked: string[] = [];
  constructor(private readonly answer: () => Promise<LoadedSession | null>) {
    super();
  }
  override get breaker(): 'closed' | 'open' | undefined {
    return this.state;
  }
  override get(id: string): Promise<LoadedSession | null> {
    this.asked.push(id);
    return this.answer();
  }
}

const hangs = () => new Promise<null>(() => undefined);

describe('SessionHealthIndicator', () => {
  let lease: SubscriberState;
  beforeEach(() => void (lease = 'live'));
  afterEach(() => void vi.useRealTimers());
  function over(answer: () => Promise<LoadedSession | null>) {
    const store = new AnsweringStore(answer);
    const subscriber = {
      get state() {
        return lease;
      },
    } as RedisSubscriber;
    return { store, indicator: new SessionHealthIndicator(store, subscriber) };
  }

  it('up: asks the store for a session that there is not, in a partition that every deployment has', async () => {
    const { store, indicator } = over(async () => null);
    expect(await indicator.health()).toEqual({
      state: 'up',
      latencyMs: expect.any(Number) as number,
      lease: 'live',
      breaker: null,
    });
    expect(store.asked).toHaveLength(1);
    expect(partitionOfId(store.asked[0], 1)).toBe(0);
    expect(await new WrappedStore().get(store.asked[0]!)).toBeNull();
  });

  it('latencyMs is the time until the answer, to the hundredth', async () => {
    const { indicator } = over(async () => (await delay(60), null));
    const begun = performance.now();
    const { latencyMs } = await indicator.health();
    expect(latencyMs).toBeGreaterThan(50);
    expect(latencyMs).toBeLessThanOrEqual(performance.now() - begun + 0.01);
    expect(Math.abs(latencyMs! * 100 - Math.round(latencyMs! * 100))).toBeLessThan(1e-6);
  });

  it.each<[what: string, answer: () => Promise<null>]>([
    ['rejects', () => Promise.reject(new Error('away'))],
    [
      'throws',
      () => {
        throw new Error('away');
      },
    ],
    ['does not answer', hangs],
  ])('a store that %s is down, and nothing rejects', async (_, answer) => {
    const { indicator } = over(answer);
    const down = { state: 'down', latencyMs: null, lease: 'live', breaker: null };
    expect(await indicator.health({ timeoutMs: 20 })).toEqual(down);
    expect(await indicator.isHealthy('x', { timeoutMs: 20 })).toEqual({ x: { ...down, status: 'down' } });
    lease = 'suspended'; // as it is when all of Redis is away
    expect((await indicator.health({ timeoutMs: 20 })).state).toBe('down');
  });

  it('a store that rejects after the time was up is nobody’s unhandled rejection', async () => {
    const { indicator } = over(async () => {
      await delay(30);
      throw new Error('late');
    });
    expect((await indicator.health({ timeoutMs: 1 })).state).toBe('down');
    await delay(60); // vitest fails the run otherwise
  });

  it('waits for timeoutMs, 1,000 by default, and leaves no timer', async () => {
    vi.useFakeTimers();
    const { indicator } = over(hangs);
    for (const [options, ms] of [
      [undefined, 1_000],
      [{}, 1_000],
      [{ timeoutMs: 60_000 }, 60_000],
    ] as const) {
      let ended = false;
      void indicator.health(options).then(() => (ended = true));
      await vi.advanceTimersByTimeAsync(ms - 1);
      expect(ended).toBe(false);
      await vi.advanceTimersByTimeAsync(1);
      expect(ended).toBe(true);
    }
    await over(async () => null).indicator.health();
    expect(vi.getTimerCount()).toBe(0);
  });

  it.each([0, -1, 1.5, 60_001, NaN, Infinity, '500', null])('refuses timeoutMs: %s', async (timeoutMs) => {
    const { store, indicator } = over(async () => null);
    await expect(indicator.isHealthy('x', { timeoutMs: timeoutMs as number })).rejects.toMatchObject({
      code: 'SESSION_ARGUMENT',
      message: expect.stringContaining(`from 1 to 60000; got ${String(timeoutMs)}.`) as string,
    });
    expect(store.asked).toEqual([]);
  });

  it.each<[SubscriberState, 'up' | 'degraded']>([
    ['off', 'up'],
    ['connecting', 'degraded'],
    ['live', 'up'],
    ['suspended', 'degraded'],
  ])('a lease that is %s: %s, and up for Terminus', async (state, expected) => {
    lease = state;
    const { indicator } = over(async () => null);
    expect(await indicator.isHealthy()).toMatchObject({
      sessions: { status: 'up', state: expected, lease: state },
    });
  });

  it.each(['closed', 'open', undefined] as const)('shows the breaker: %s', async (state) => {
    const { store, indicator } = over(async () => null);
    store.state = state;
    expect((await indicator.health()).breaker).toBe(state ?? null);
  });
});

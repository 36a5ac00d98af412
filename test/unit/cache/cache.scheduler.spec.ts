import { ModuleRef } from '@nestjs/core';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { CacheScheduler } from '../../../lib/cache/cache.scheduler.js';
import type { CacheService } from '../../../lib/cache/cache.service.js';
import { resolveSessionOptions } from '../../../lib/options/resolve-session-options.js';
import type { SessionCacheOptions } from '../../../lib/options/session-options.interface.js';

describe('CacheScheduler: copies that will not be served any more', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  /** What it asks of a cache of so many copies, and when. */
  async function run(options: SessionCacheOptions, size: number) {
    const asked: number[] = [];
    const cache = { size, dropExpired: (count: number) => asked.push(count) } as unknown as CacheService;
    const scheduler = new CacheScheduler(
      resolveSessionOptions({ cache: options }).cache,
      cache,
      {} as ModuleRef,
    );
    await scheduler.start();
    return { asked, scheduler };
  }

  it('a cache without a limit is gone through about once a minute, also without idleCheckInterval', async () => {
    const { asked, scheduler } = await run({ maxEntries: 0 }, 60_000);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(asked).toHaveLength(60);
    expect(asked.reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(60_000);
    await scheduler.stop();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(asked).toHaveLength(60);
  });

  it('a bounded one is not, unless idleCheckInterval says so; then by idleCheckPerCount', async () => {
    expect((await run({ maxEntries: 100 }, 100)).asked).toEqual([]);
    const { asked, scheduler } = await run({ idleCheckInterval: '10s', idleCheckPerCount: 7 }, 100);
    await vi.advanceTimersByTimeAsync(30_000);
    expect(asked).toEqual([7, 7, 7]);
    await scheduler.stop();
  });

  it('an interval of its own replaces the one of a cache without a limit', async () => {
    const { asked, scheduler } = await run(
      { maxEntries: 0, idleCheckInterval: '30s', idleCheckPerCount: 5 },
      100,
    );
    await vi.advanceTimersByTimeAsync(60_000);
    expect(asked).toEqual([5, 5]);
    await scheduler.stop();
  });
});

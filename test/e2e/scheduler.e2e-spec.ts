import 'reflect-metadata';
import { setTimeout as delay } from 'node:timers/promises';
import { Injectable, Module, type DynamicModule } from '@nestjs/common';
import { Cron, ScheduleModule, SchedulerRegistry } from '@nestjs/schedule';
import { describe, expect, it, vi } from 'vitest';
import {
  CACHE_CLEAR_JOB,
  SessionModule,
  SessionOptionsError,
  type CacheStats,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { waitFor } from '../support/wait-for.js';
import { createApp, PLATFORMS, startApp } from './support/test-app.js';
import { WrappedStore } from './support/wrapped-store.js';

const EVERY_SECOND = '* * * * * *';
const YEARLY = '0 0 1 1 *';

const ways: [string, (options: SessionModuleOptions) => DynamicModule][] = [
  ['forRoot', (options) => SessionModule.forRoot(options)],
  ['forRootAsync', (options) => SessionModule.forRootAsync({ useFactory: async () => options })],
];

describe.each(PLATFORMS)('cache.clearCron over %s', (platform) => {
  describe.each(ways)('through %s', (_way, moduleOf) => {
    it('empties the near cache on the second, and cacheClear tells how many copies there were', async () => {
      const sizes: number[] = [];
      const events = { cacheClear: ({ size }: { size: number }) => void sizes.push(size) };
      const app = await startApp(platform, {
        session: null,
        imports: [ScheduleModule.forRoot(), moduleOf({ cache: { clearCron: EVERY_SECOND }, events })],
      });
      // Right after a tick, so that the next one is a whole second away and both sessions fall before it.
      await waitFor(() => sizes.length >= 1, { timeoutMs: 2500 });
      const { token } = await app.sessions.create({ name: 'Ada' });
      await app.sessions.create({ name: 'Bob' });
      expect(app.cache.size).toBe(2);
      await waitFor(() => sizes.includes(2), { timeoutMs: 2500 });
      expect(app.cache.size).toBe(0);
      expect((await app.sessions.get(token))?.source).toBe('store');
    });

    it("is in the app's SchedulerRegistry while the app runs, and gone and stopped after close", async () => {
      const app = await startApp(platform, {
        session: null,
        imports: [moduleOf({ cache: { clearCron: EVERY_SECOND } }), ScheduleModule.forRoot()],
      });
      const registry = app.app.get(SchedulerRegistry);
      expect([...registry.getCronJobs().keys()]).toEqual([CACHE_CLEAR_JOB]);
      const job = registry.getCronJob(CACHE_CLEAR_JOB);
      expect(job.isActive).toBe(true);
      expect(job.nextDate().toMillis()).toBeLessThanOrEqual(Date.now() + 1_000);
      expect(app.logs.matching(/clearCron/)).toEqual([]);
      await app.close();
      expect(job.isActive).toBe(false);
      expect(registry.doesExist('cron', CACHE_CLEAR_JOB)).toBe(false);
    });

    it.each([
      ['words', 'every minute'],
      ['a field out of range', '61 * * * * *'],
      ['too few fields', '* * *'],
      ['too many fields', '* * * * * * *'],
      ['a step of zero', '*/0 * * * *'],
      ['a date that never comes', '0 0 31 2 *'],
      ['nothing', ''],
      ['a number', 5],
    ])('of %s stops the boot, naming the option and the value', async (_what, expression) => {
      const store = new WrappedStore();
      const options = { store, cache: { clearCron: expression } } as unknown as SessionModuleOptions;
      const error = await boot(platform, [moduleOf(options)]);
      expect(error).toBeInstanceOf(SessionOptionsError);
      expect(error).toMatchObject({ option: 'cache.clearCron' });
      expect((error as Error).message).toContain(
        typeof expression === 'string' ? `"${expression}"` : String(expression),
      );
      expect(store.calls.open).toBe(0);
    });

    it('of nonsense leaves no job in the registry of an app whose boot stopped', async () => {
      const app = await createApp(platform, {
        session: null,
        imports: [ScheduleModule.forRoot(), moduleOf({ cache: { clearCron: '0 0 31 2 *' } })],
      });
      await expect(app.init()).rejects.toThrow(SessionOptionsError);
      expect(app.get(SchedulerRegistry).getCronJobs().size).toBe(0);
    });
  });

  it("leaves the app's own @Cron alone: it runs once per tick, in whichever module it stands", async () => {
    const runs = { root: 0, feature: 0 };
    @Injectable()
    class RootJobs {
      @Cron(EVERY_SECOND)
      tick() {
        runs.root++;
      }
    }
    @Injectable()
    class FeatureJobs {
      @Cron(EVERY_SECOND)
      tick() {
        runs.feature++;
      }
    }
    @Module({ providers: [FeatureJobs] })
    class FeatureModule {}
    let clears = 0;
    const app = await startApp(platform, {
      session: {
        cache: { clearCron: EVERY_SECOND },
        events: {
          cacheClear: () => {
            clears++;
          },
        },
      },
      imports: [ScheduleModule.forRoot(), FeatureModule],
      providers: [RootJobs],
    });
    const jobs = app.app.get(SchedulerRegistry).getCronJobs();
    expect(jobs.size).toBe(3);
    await waitFor(() => clears >= 3, { timeoutMs: 4500 });
    // The jobs of one second fire one after the other, so each count may be one off; run twice they would be double.
    for (const count of [runs.root, runs.feature]) {
      expect(count).toBeGreaterThanOrEqual(clears - 1);
      expect(count).toBeLessThanOrEqual(clears + 1);
    }
  });

  it('runs without ScheduleModule too, and the log says how to see it', async () => {
    const sizes: number[] = [];
    const app = await startApp(platform, {
      session: {
        cache: { clearCron: EVERY_SECOND },
        events: { cacheClear: ({ size }) => void sizes.push(size) },
      },
    });
    expect(app.logs.matching(/^log.*ScheduleModule\.forRoot\(\).*sessionkit:cache-clear/)).toHaveLength(1);
    await waitFor(() => sizes.length >= 1, { timeoutMs: 2500 });
    await app.close();
    // Two more of the app's seconds would bring two more clears. Counted on another app's clock, not by a sleep.
    const after = sizes.length;
    let ticks = 0;
    await startApp(platform, {
      session: { cache: { clearCron: EVERY_SECOND }, events: { cacheClear: () => void ticks++ } },
    });
    await waitFor(() => ticks >= 2, { timeoutMs: 3500 });
    expect(sizes).toHaveLength(after);
  });

  it('without the option there is no job, and no line about it', async () => {
    const app = await startApp(platform, { imports: [ScheduleModule.forRoot()] });
    expect(app.app.get(SchedulerRegistry).getCronJobs().size).toBe(0);
    expect(app.logs.matching(/clearCron/)).toEqual([]);
  });

  it.each(['0 4 * * *', '30 0 4 * * *', '*/10 * * * * *', '0 9 * * mon-fri', YEARLY, '@hourly'])(
    'takes "%s"',
    async (clearCron) => {
      const app = await startApp(platform, {
        session: { cache: { clearCron } },
        imports: [ScheduleModule.forRoot()],
      });
      expect(app.app.get(SchedulerRegistry).getCronJob(CACHE_CLEAR_JOB).isActive).toBe(true);
    },
  );

  it('a clear by the app through the registry (fireOnTick) does the same', async () => {
    const sizes: number[] = [];
    const app = await startApp(platform, {
      session: { cache: { clearCron: YEARLY }, events: { cacheClear: ({ size }) => void sizes.push(size) } },
      imports: [ScheduleModule.forRoot()],
    });
    await app.sessions.create({ name: 'Ada' });
    await app.app.get(SchedulerRegistry).getCronJob(CACHE_CLEAR_JOB).fireOnTick();
    expect(sizes).toEqual([1]);
  });

  it('a job that the app itself deleted from the registry does not disturb the close', async () => {
    const app = await startApp(platform, {
      session: { cache: { clearCron: YEARLY } },
      imports: [ScheduleModule.forRoot()],
    });
    app.app.get(SchedulerRegistry).deleteCronJob(CACHE_CLEAR_JOB);
    await app.close();
  });
});

describe.each(PLATFORMS)('cache.idleCheckInterval and cache.reportInterval over %s', (platform) => {
  it('the idle check drops copies that nobody asks for, idleCheckPerCount at a time, and leaves good ones', async () => {
    const app = await startApp(platform, {
      session: { cache: { idleCheckInterval: '20ms', idleCheckPerCount: 2, maxAge: '1h' } },
    });
    const checks = vi.spyOn(app.cache, 'dropExpired');
    const good = await app.sessions.create({ name: 'Ada' });
    const short = { idleTimeout: 0, absoluteTimeout: '60ms' };
    for (let i = 0; i < 5; i++) await app.sessions.create({ name: 'Bob' }, short);
    expect(app.cache.size).toBe(6);
    await waitFor(() => app.cache.size === 1);
    expect((await app.sessions.get(good.token))?.source).toBe('cache');
    expect(app.cache.stats().evictions).toBe(0);
    expect(new Set(checks.mock.calls.map(([count]) => count))).toEqual(new Set([2]));
    const dropped = checks.mock.results.map(({ value }) => value as number);
    expect(Math.max(...dropped)).toBeLessThanOrEqual(2);
    expect(dropped.reduce((sum, count) => sum + count)).toBe(5);
  });

  it('without idleCheckInterval copies that nobody asks for stay until they are asked for', async () => {
    const app = await startApp(platform, { session: { store: new WrappedStore({ exclusive: true }) } });
    const check = vi.spyOn(app.cache, 'dropExpired');
    const { token } = await app.sessions.create({ name: 'Ada' }, { idleTimeout: 0, absoluteTimeout: '20ms' });
    await delay(60); // nothing is to happen
    expect(app.cache.size).toBe(1);
    expect(check).not.toHaveBeenCalled();
    expect(await app.sessions.get(token)).toBeNull();
  });

  it('each report is an event with the statistics and a line in the log without tokens', async () => {
    const app = await startApp(platform, { session: { cache: { reportInterval: '25ms' } } });
    const reports: CacheStats[] = [];
    app.events.on('cacheReport', (stats) => reports.push(stats));
    const { token } = await app.sessions.create({ name: 'Ada' });
    await app.sessions.get(token);
    await waitFor(() => reports.some(({ entries, hits }) => entries === 1 && hits === 1));
    expect(reports.at(-1)).toEqual(app.cache.stats());
    const lines = app.logs.matching(/^log Near cache: 1 sessions, \d+ bytes, 1 hits, \d+ misses$/);
    expect(lines.length).toBeGreaterThan(0);
    expect(lines.join()).not.toContain(token);
  });

  it('without reportInterval there is neither', async () => {
    const app = await startApp(platform, {});
    const reports: CacheStats[] = [];
    app.events.on('cacheReport', (stats) => reports.push(stats));
    await delay(60); // nothing is to happen
    expect(reports).toEqual([]);
    expect(app.logs.matching(/Near cache:/)).toEqual([]);
  });

  it('close() stops both timers', async () => {
    const app = await startApp(platform, {
      session: { cache: { idleCheckInterval: '10ms', reportInterval: '10ms' } },
    });
    const check = vi.spyOn(app.cache, 'dropExpired');
    const report = vi.spyOn(app.cache, 'report');
    await waitFor(() => check.mock.calls.length > 2 && report.mock.calls.length > 2);
    await app.close();
    const counts = [check.mock.calls.length, report.mock.calls.length];
    await delay(60); // nothing is to happen
    expect([check.mock.calls.length, report.mock.calls.length]).toEqual(counts);
  });
});

/** What stopped the boot, at creation or at init. */
async function boot(platform: (typeof PLATFORMS)[number], imports: DynamicModule[]): Promise<unknown> {
  try {
    const app = await createApp(platform, { session: null, imports });
    await app.init();
  } catch (error) {
    return error;
  }
  throw new Error('expected the boot to stop');
}

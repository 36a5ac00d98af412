import { Logger } from '@nestjs/common';
import type { ModuleRef } from '@nestjs/core';
import type { CronJob } from 'cron';
import { SessionOptionsError } from '../errors/caller.errors.js';
import type { ResolvedCacheOptions } from '../options/session-options.interface.js';
import type { CacheService } from './cache.service.js';

/** Name of the job in the app's `SchedulerRegistry`. */
export const CACHE_CLEAR_JOB = 'sessionkit:cache-clear';

/**
 * Runs what the near cache does by the clock: `cache.clearCron`, the idle check and the report. The cron job is
 * registered in the app's own `SchedulerRegistry` where there is one; importing `ScheduleModule.forRoot()` a second time
 * would run all of the app's crons twice, so this package never does.
 */
export class CacheScheduler {
  readonly #logger = new Logger('SessionModule');
  #job: CronJob | undefined;
  #unregister: (() => void) | undefined;
  #timers: NodeJS.Timeout[] = [];

  constructor(
    private readonly options: ResolvedCacheOptions | false,
    private readonly cache: CacheService,
    private readonly moduleRef: ModuleRef,
  ) {}

  /** @throws {SessionOptionsError} if the cron package does not accept the expression */
  async start(): Promise<void> {
    if (this.options === false) return;
    const { clearCron, maxEntries, idleCheckIntervalMs, idleCheckPerCount, reportIntervalMs } = this.options;
    if (maxEntries === 0 && idleCheckIntervalMs === 0) {
      // Nothing ever makes room in a cache without a limit: each copy is looked at about once a minute.
      this.#every(1_000, () => this.cache.dropExpired(Math.max(idleCheckPerCount, this.cache.size / 60)));
    }
    this.#every(idleCheckIntervalMs, () => this.cache.dropExpired(idleCheckPerCount));
    this.#every(reportIntervalMs, () => this.#report());
    if (clearCron !== undefined) await this.#startCron(clearCron);
  }

  async stop(): Promise<void> {
    for (const timer of this.#timers.splice(0)) clearInterval(timer);
    await this.#job?.stop();
    this.#unregister?.();
    this.#job = undefined;
    this.#unregister = undefined;
  }

  #every(ms: number, task: () => unknown): void {
    if (ms > 0) this.#timers.push(setInterval(task, ms).unref());
  }

  #report(): void {
    const { entries, bytes, hits, misses } = this.cache.report();
    this.#logger.log(`Near cache: ${entries} sessions, ${bytes} bytes, ${hits} hits, ${misses} misses`);
  }

  async #startCron(clearCron: string): Promise<void> {
    // Loaded only when the option is used: cron brings luxon with it.
    const { CronJob } = await import('cron');
    try {
      this.#job = CronJob.from({
        cronTime: clearCron,
        onTick: () => void this.cache.clear(),
        unrefTimeout: true,
      });
      this.#job.nextDate(); // throws for a date that never comes, such as 31 February
    } catch (cause) {
      throw new SessionOptionsError(
        'cache.clearCron',
        `must be a cron expression of 5 or 6 fields, for a time that comes; got "${clearCron}". Write e.g. '0 4 * * *'.`,
        { cause },
      );
    }
    await this.#register(this.#job);
    this.#job.start();
  }

  async #register(job: CronJob): Promise<void> {
    const { SchedulerRegistry } = await import('@nestjs/schedule');
    let registry: InstanceType<typeof SchedulerRegistry>;
    try {
      registry = this.moduleRef.get(SchedulerRegistry, { strict: false });
    } catch {
      // The app does not use @nestjs/schedule, which is no reason not to run.
      this.#logger.log(
        `cache.clearCron runs by itself; import ScheduleModule.forRoot() to see it in the SchedulerRegistry as "${CACHE_CLEAR_JOB}".`,
      );
      return;
    }
    // A second SessionModule of the app has a cache of its own.
    let name = CACHE_CLEAR_JOB;
    for (let count = 2; registry.doesExist('cron', name); count++) name = `${CACHE_CLEAR_JOB}-${count}`;
    registry.addCronJob(name, job);
    this.#unregister = () => {
      if (registry.doesExist('cron', name)) registry.deleteCronJob(name);
    };
  }
}

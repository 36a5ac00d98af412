// The oracle of the fault tests (COHERENCE.md, "The tests that prove it"): one process writes and notes when each
// version was acknowledged, others read, and every answer is judged by `serveStart − ack(servedVersion + 1)`.
// It knows nothing of how Redis is set up: see `rig.ts` for one server behind proxies.
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'vitest';
import type { SessionModuleOptions } from '../../../lib/index.js';
import { NodeWorker } from '../../support/node-worker.js';
import { waitFor } from '../../support/wait-for.js';
import { now } from './machine-clock.mjs';

export { now };

/**
 * What a reader's protocol is deprived of (patched in its process, `reader-worker.mjs`):
 * - `epoch`: copies outlive the epoch they were stored in.
 * - `lease`: a link counts as sound until it closes.
 * - `naive`: plain pub/sub, neither epochs nor lease.
 */
export type Weakness = 'none' | 'epoch' | 'lease' | 'naive';

/** What the writer does. */
export interface WriterLoad {
  /** Living sessions, 300 by default. Each must be written rarely, or its next message heals what one lost. */
  sessions: number;
  /** Concurrent writers, 4 by default. */
  lanes: number;
  /** Mean pause of each between two writes, 15 by default: some 200 writes a second in all. */
  pauseMs: number;
  /** Share of the writes that end a session, 0.1 by default. */
  destroyRatio: number;
}

export interface ReaderSettings {
  options: SessionModuleOptions;
  /** `none` by default. */
  weaken?: Weakness;
  /** So many reads each time, with so long a pause; 40 every 2 ms by default. */
  pace?: { burst: number; everyMs: number };
}

export interface ObservationSettings {
  /** The bound reads are judged by, for weakened readers as well. */
  leaseMs: number;
  writer: SessionModuleOptions;
  readers: Record<string, ReaderSettings>;
  load?: Partial<WriterLoad>;
}

/** What a reader has seen; times are milliseconds. */
export interface ReadReport {
  /** Answers judged, `hits` of them from the near cache, `stored` from the store, `nulls` null. */
  reads: number;
  hits: number;
  stored: number;
  nulls: number;
  /** Nulls for a session that nobody had begun to end: always wrong. */
  wrongNulls: number;
  /** Greatest age of a change that had been acknowledged and was not in the answer. */
  worstMs: number;
  /** Answers older than the bound; `overEnded` of sessions ended before, `overCache` from the near cache. */
  over: number;
  overEnded: number;
  overCache: number;
  /** The first few of them. */
  samples: unknown[];
  /** Lookups in the near cache while `quiet(true)`. */
  quietHits: number;
  quietMisses: number;
  /** Rejected reads, by error code. */
  errors: Record<string, number>;
  /** `lease` events with the time they came. */
  leases: { state: string; epoch: number; reason: string; at: number }[];
}

/** A reader at one moment. */
export interface ReaderState {
  state: string;
  live: boolean;
  epoch: number;
  proofAge: number | null;
  epochs: number;
  heartbeats: number;
  messages: number;
  malformed: number;
  cache: { entries: number; hits: number; misses: number };
  /** Answers from the near cache so far, and the time of the newest. */
  hits: number;
  lastHit: number;
  misses: number;
  errors: Record<string, number>;
  /** Time of this state, on `now()`'s clock. */
  at: number;
}

export interface WriterCounts {
  writes: number;
  creates: number;
  destroys: number;
  /** Writes tried again because the store did not answer. */
  retries: number;
  /** Sessions found gone though nobody had ended them, and no `allGone` told of it. */
  lost: number;
}

interface News {
  created: unknown[];
  acks: number[];
  ended: number[];
  upTo: number;
  counts: WriterCounts;
}

const LOAD: WriterLoad = { sessions: 300, lanes: 4, pauseMs: 15, destroyRatio: 0.1 };
const PACE = { burst: 40, everyMs: 2 };
const PUMP_MS = 100;
/** Time within which a reader must serve from its cache again (issue 3). */
export const RECOVERY_MS = 3_000;

/** One process that reads. */
export class Reader {
  /** What `recovered` measured, in ms. */
  readonly recoveries: number[] = [];

  constructor(
    readonly name: string,
    readonly worker: NodeWorker,
  ) {}

  state(): Promise<ReaderState> {
    return this.worker.call('state');
  }

  /** Blocks the event loop so long, then reads before it turns. Resolves after that. */
  block(ms: number): Promise<void> {
    return this.worker.call('block', ms);
  }

  /**
   * Reads for at least `ms` without a turn of the event loop; resolves when it has begun. `done` settles at its end: a
   * process that is frozen meanwhile goes on reading before it hears any news.
   */
  async spin(ms: number): Promise<{ done: Promise<void> }> {
    const from = this.worker.events.length;
    const done = this.worker.call<void>('spin', ms);
    done.catch(() => undefined);
    await this.worker.event('spinning', { from });
    return { done };
  }

  /** Counts lookups as those of a time without faults from here on, or no longer. */
  quiet(on: boolean): Promise<void> {
    return this.worker.call('quiet', on);
  }

  /** Waits for a state; rejects with the last one seen. */
  async until(
    what: string,
    condition: (state: ReaderState) => boolean,
    timeoutMs = 5_000,
  ): Promise<ReaderState> {
    let last: ReaderState | undefined;
    try {
      return await waitFor(
        async () => {
          last = await this.state();
          return condition(last) && last;
        },
        { timeoutMs, message: `reader ${this.name}: ${what}` },
      );
    } catch (error) {
      throw new Error(`${(error as Error).message}; its state: ${JSON.stringify(last)}`, { cause: error });
    }
  }

  /**
   * Call when a fault has ended: waits until the cache serves again (100 answers of it since), and gives the time
   * that took. Rejects after `RECOVERY_MS`.
   */
  async recovered(since = now()): Promise<number> {
    const before = await this.state();
    const left = RECOVERY_MS - (now() - since);
    const after = await this.until('serves again', (s) => s.live && s.hits >= before.hits + 100, left);
    this.recoveries.push(after.at - since);
    return after.at - since;
  }
}

/** A writer and its readers, running. */
export class Observation {
  readonly readers = new Map<string, Reader>();
  readonly #settings: ObservationSettings;
  #writer!: NodeWorker;
  #counts: WriterCounts = { writes: 0, creates: 0, destroys: 0, retries: 0, lost: 0 };
  #pump: Promise<void> = Promise.resolve();
  #pumping = true;
  #problem: Error | undefined;
  #closed = false;

  private constructor(settings: ObservationSettings) {
    this.#settings = settings;
  }

  /** Starts all processes; resolves when all sessions exist and each reader has answered from its cache. */
  static async start(settings: ObservationSettings): Promise<Observation> {
    const observation = new Observation(settings);
    try {
      await observation.#start();
      return observation;
    } catch (error) {
      await observation.close().catch(() => undefined);
      throw error;
    }
  }

  reader(name: string): Reader {
    const reader = this.readers.get(name);
    if (reader === undefined) throw new Error(`No reader ${name}`);
    return reader;
  }

  /** What the writer has done so far. */
  get counts(): WriterCounts {
    return this.#counts;
  }

  /** Lets it run on for so long: the load is the point, nothing is awaited. */
  async run(ms: number): Promise<void> {
    await sleep(ms);
    this.check();
  }

  /** Throws what went wrong behind our back, such as a worker that crashed. */
  check(): void {
    if (this.#problem !== undefined) throw this.#problem;
    for (const { exit, output } of [this.#writer, ...[...this.readers.values()].map((r) => r.worker)]) {
      if (exit !== null || output !== '') throw new Error(`A worker crashed or complained:\n${output}`);
    }
  }

  /** Tells that the server lost all its data between these two moments (`now()` before and after). */
  async allGone(began: number, at: number): Promise<void> {
    await this.#writer.call('allGone', began, at);
  }

  /** Stops the load, judges every read, and gives what each reader saw. */
  async finish(): Promise<Record<string, ReadReport>> {
    await this.#writer.call('stop');
    await Promise.all([...this.readers.values()].map(({ worker }) => worker.call('stop')));
    this.#pumping = false;
    await this.#pump;
    // Twice: what was asked before the stop may be answered after the first.
    for (let round = 0; round < 2; round++) {
      await sleep(50);
      await this.#carry();
    }
    this.check();
    const reports = await Promise.all(
      [...this.readers].map(
        async ([name, { worker }]) => [name, await worker.call<ReadReport>('report')] as const,
      ),
    );
    return Object.fromEntries(reports);
  }

  /** Ends all processes; rejects when one crashed, wrote something or does not end by itself. May be repeated. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#pumping = false;
    await this.#pump;
    const workers = [this.#writer, ...[...this.readers.values()].map(({ worker }) => worker)].filter(
      (worker: NodeWorker | undefined) => worker !== undefined,
    );
    const ended = await Promise.allSettled(
      workers.map(async (worker) => {
        await worker.call('stop');
        await worker.call('close');
        await worker.stop();
      }),
    );
    for (const worker of workers) if (worker.exit === null) await worker.kill().catch(() => undefined);
    for (const end of ended) if (end.status === 'rejected') throw end.reason;
  }

  async #start(): Promise<void> {
    const { writer, readers, load, leaseMs } = this.#settings;
    const spawn = (file: string): Promise<NodeWorker> => NodeWorker.start(new URL(file, import.meta.url));
    this.#writer = await spawn('./writer-worker.mjs');
    await Promise.all([
      this.#writer.call('boot', { ...writer, cache: false }),
      ...Object.entries(readers).map(async ([name, { options, weaken = 'none', pace = PACE }]) => {
        const worker = await spawn('./reader-worker.mjs');
        this.readers.set(name, new Reader(name, worker));
        await worker.call('boot', options, { weaken, bound: leaseMs, pace });
      }),
    ]);
    const full = { ...LOAD, ...load };
    await this.#writer.call('start', full);
    await waitFor(async () => (await this.#writer.call<number>('living')) >= full.sessions * 0.95, {
      message: 'the sessions to be created',
    });
    await this.#carry();
    this.#pump = this.#carryOn();
    await Promise.all(
      [...this.readers.values()].map(async (reader) => {
        await reader.worker.call('start');
        await reader.until('serves from its cache', ({ live, hits }) => live && hits > 500);
      }),
    );
  }

  async #carryOn(): Promise<void> {
    while (this.#pumping) {
      await sleep(PUMP_MS);
      try {
        await this.#carry(false);
      } catch (error) {
        this.#fail(error);
        return;
      }
    }
  }

  #fail(error: unknown): void {
    this.#problem ??= error instanceof Error ? error : new Error(String(error));
  }

  /** Takes the writer's news to the readers; does not wait for readers that may be frozen unless told to. */
  async #carry(wait = true): Promise<void> {
    const news = await this.#writer.call<News>('drain');
    this.#counts = news.counts;
    const learned = [...this.readers.values()].map(({ worker }) => worker.call('learn', news));
    if (wait) {
      await Promise.all(learned);
      return;
    }
    for (const one of learned) one.catch((error: unknown) => this.#fail(error));
  }
}

/** One line of figures for the log of the run: an assertion only knows the bound. */
export function describeReport(name: string, leaseMs: number, report: ReadReport): string {
  const { reads, hits, worstMs, over, overEnded } = report;
  return (
    `${name}: worst ${worstMs.toFixed(0)} ms stale, ${over} of ${reads} reads over ${leaseMs} ms ` +
    `(${overEnded} of ended sessions), ${hits} from the cache`
  );
}

/** The full protocol's promise: nothing over the bound, nothing lost, no error but "Redis does not answer". */
export function expectCoherent(report: ReadReport, leaseMs: number): void {
  const { over, overEnded, wrongNulls, worstMs, samples, errors, leases } = report;
  const detail = JSON.stringify({ samples, leases: leases.slice(-20) });
  expect({ over, overEnded, wrongNulls }, detail).toEqual({ over: 0, overEnded: 0, wrongNulls: 0 });
  expect(worstMs, detail).toBeLessThanOrEqual(leaseMs);
  expect(report.hits, 'answers from the near cache').toBeGreaterThan(500);
  expect(Object.keys(errors).filter((code) => code !== 'SESSION_STORE_UNAVAILABLE')).toEqual([]);
}

/** Shows that the test can fail: a weakened protocol must have been caught. */
export function expectCaught(report: ReadReport): void {
  expect(report.over, 'stale reads of the weakened protocol').toBeGreaterThan(0);
}

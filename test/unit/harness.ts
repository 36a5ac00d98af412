// The core as SessionModule wires it, over the memory store, with a clock that tests move.
import { CacheService } from '../../lib/cache/cache.service.js';
import type { FileCache } from '../../lib/cache/file-cache.js';
import { dataCodecOf } from '../../lib/core/custom-codec.js';
import { RecordData } from '../../lib/core/record-data.js';
import type { CopyEpoch, InvalidationSource } from '../../lib/core/session-cache.interface.js';
import { SessionEngine } from '../../lib/core/session-engine.js';
import { SessionRegistry } from '../../lib/core/session.registry.js';
import { SessionService } from '../../lib/core/session.service.js';
import { SessionEvents, type SessionEventMap } from '../../lib/events/session-events.js';
import { resolveSessionOptions } from '../../lib/options/resolve-session-options.js';
import type { SessionModuleOptions } from '../../lib/options/session-options.interface.js';
import { MemorySessionStore } from '../../lib/store/memory-session.store.js';
import { ManualClock } from '../support/manual-clock.js';

export const SECOND = 1_000;
export const MINUTE = 60_000;
export const HOUR = 3_600_000;
export const DAY = 86_400_000;

/** Data of the tests: anything goes. */
export type Data = Record<string, unknown>;

/** Invalidations as a subscriber would deliver them, and its state, in the hands of the test. */
export class ManualSource implements InvalidationSource {
  live = true;
  epoch = 0;
  refusedFills = 0;
  readonly #listeners: ((id: string, version: number) => void)[] = [];

  readonly #epochs = new Map<number, CopyEpoch>();

  epochOf(): CopyEpoch {
    const known = this.#epochs.get(this.epoch) ?? this.#epochNumber(this.epoch);
    this.#epochs.set(this.epoch, known);
    return known;
  }

  #epochNumber(epoch: number): CopyEpoch {
    const isCurrent = () => this.epoch === epoch;
    const liveUntil = () => (this.live && isCurrent() ? Infinity : -Infinity);
    const provenUntil = () =>
      this.live ? liveUntil() : epoch === this.past.epoch ? this.past.until : -Infinity;
    return {
      get liveUntil() {
        return liveUntil();
      },
      get provenUntil() {
        return provenUntil();
      },
      get ended() {
        return !isCurrent();
      },
    };
  }

  /** The epoch whose copies could be served until then; the current one is proved for ever. */
  past = { epoch: -1, until: -Infinity };

  /** As if the link were lost. */
  lose(now: number): void {
    if (this.live) this.past = { epoch: this.epoch, until: now };
    this.live = false;
    this.epoch++;
  }

  countRefusedFill(): void {
    this.refusedFills++;
  }

  onInvalidation(listener: (id: string, version: number) => void): void {
    this.#listeners.push(listener);
  }

  /** As if another process had changed (or, with Infinity, ended) the session. */
  announce(id: string, version: number): void {
    for (const listener of this.#listeners) listener(id, version);
  }
}

/** A promise that the test settles. */
export interface Deferred<V> {
  readonly promise: Promise<V>;
  resolve(value: V): void;
  reject(error: Error): void;
}

export function deferred<V>(): Deferred<V> {
  let settle!: Pick<Deferred<V>, 'resolve' | 'reject'>;
  const promise = new Promise<V>((resolve, reject) => (settle = { resolve, reject }));
  return { promise, ...settle };
}

/** What has been begun goes as far as it can without the test. */
export const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** One process's part; several over one store are several processes. */
export function openCore<T extends object = Data>(
  options: SessionModuleOptions = {},
  shared: { clock?: ManualClock; store?: MemorySessionStore; files?: FileCache } = {},
) {
  const clock = shared.clock ?? new ManualClock();
  const store = shared.store ?? new MemorySessionStore({ clock });
  const resolved = resolveSessionOptions(options);
  const source = new ManualSource();
  const events = new SessionEvents((error) => {
    throw error;
  });
  const cache = new CacheService(resolved.cache, source, events, clock, shared.files ?? null);
  const engine = new SessionEngine(
    store,
    cache,
    events,
    resolved,
    new RecordData(dataCodecOf(resolved.codec), resolved),
    clock,
  );
  const heard: { event: keyof SessionEventMap; payload: unknown }[] = [];
  for (const event of [
    'created',
    'destroyed',
    'regenerated',
    'undecodable',
    'cacheClear',
    'cacheWrite',
  ] as const)
    events.on(event, (payload) => heard.push({ event, payload }));
  return {
    clock,
    store,
    source,
    events,
    cache,
    engine,
    heard,
    /** Payloads of one event, in order. */
    said: <K extends keyof SessionEventMap>(name: K) =>
      heard.filter(({ event }) => event === name).map(({ payload }) => payload as SessionEventMap[K]),
    sessions: new SessionService<T>(engine, resolved),
    registry: new SessionRegistry(engine, resolved),
  };
}

/** The session, which must be there. */
export async function mustLoad<T extends object>(sessions: SessionService<T>, token: string) {
  const session = await sessions.get(token);
  if (session === null) throw new Error('the session is absent');
  return session;
}

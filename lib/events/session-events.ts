import { EventEmitter } from 'node:events';

/** Why a session ended, as seen by the process that ended it; `evicted`: it made room for a new one of its user. */
export type SessionEndReason = 'destroyed' | 'killed' | 'evicted';

/**
 * Event name → payload. Payloads carry public ids, never tokens or data.
 *
 * @publicApi
 */
export interface SessionEventMap {
  /** A session was created by this process. */
  created: { id: string; userId: string | null };
  /** A session was ended by this process. `userId` is null too where it was ended by an id this process did not know. */
  destroyed: { id: string; userId: string | null; reason: SessionEndReason };
  /**
   * The time of a session was up, and it has been removed: emitted once, in one of the processes, within about
   * `sweepInterval` after it. Metadata is empty where no process was there to remove it within a minute.
   */
  expired: {
    id: string;
    userId: string | null;
    metadata: {
      readonly ip?: string;
      readonly userAgent?: string;
      readonly label?: string;
      readonly [field: string]: unknown;
    };
  };
  /** A session got a new token and id; the old ones are void. */
  regenerated: { id: string; previousId: string; userId: string | null };
  /** A copy was put into the near cache. */
  cacheWrite: { id: string };
  /** The near cache was emptied; `size` is the number of entries it held. */
  cacheClear: { size: number };
  /** Another process changed or ended a session. */
  message: { operation: InvalidationOperation; id: string; origin: string };
  /** A stored record could not be read; its session counts as absent. */
  undecodable: { id: string; reason: string };
  /** The near cache may (`live`) or may not (`suspended`) answer; `reason` says why not. */
  lease: { state: SubscriberState; epoch: number; reason: string | null };
  /** Every `cache.reportInterval`. */
  cacheReport: CacheStats;
  /** A copy in a file could not be written, read or removed: the session is read from the store instead. */
  cacheError: { operation: 'write' | 'read' | 'remove'; id: string | null; code: string };
  /**
   * The store could not be asked, and a copy was served beyond its time (`onStoreUnavailable: 'stale'`): once for each
   * session in an outage.
   */
  staleRead: { id: string };
  /** The store stopped (`false`) or started again (`true`) to answer. */
  storeAvailable: { available: boolean };
}

/** What an invalidation says happened to a session. `create` is only told of tokens that the app chose itself. */
export type InvalidationOperation = 'create' | 'update' | 'destroy';

/**
 * - `off`: there is nothing to listen to (memory store, foreign store) or nobody who wants to hear (`cache: false` without
 *   `subscriber` and `events.message`).
 * - `connecting`: no subscription has been confirmed yet.
 * - `live`: every change that Redis executed up to `leaseMs` ago has arrived.
 * - `suspended`: a link was lost, or no proof came for `leaseMs`; copies are void until a new epoch begins.
 *
 * @publicApi
 */
export type SubscriberState = 'off' | 'connecting' | 'live' | 'suspended';

/**
 * The near cache: counts since start, and what it holds now.
 *
 * @publicApi
 */
export interface CacheStats {
  /** Copies held, void ones included until they are replaced, evicted or found by the idle check. */
  readonly entries: number;
  /** Bytes of encoded data in them; of files, their sizes. */
  readonly bytes: number;
  readonly hits: number;
  readonly misses: number;
  /** Misses answered by a read that another one had begun. */
  readonly sharedMisses: number;
  /** Misses answered by remembering that there is no such session. */
  readonly unknownHits: number;
  readonly writes: number;
  /** Copies that were not stored because the session changed, or the lease ended, while it was being read. */
  readonly refusedFills: number;
  /** Copies that were not stored because too many files were being written (`cache.type: 'file'`). */
  readonly skippedFills: number;
  readonly evictions: number;
  readonly invalidations: number;
}

type Listener<K extends keyof SessionEventMap> = (payload: SessionEventMap[K]) => void;

/**
 * Typed events of this process. Listeners run synchronously; one that throws or rejects is reported and cannot break the
 * request that caused the event.
 *
 * @publicApi
 */
export class SessionEvents {
  readonly #emitter = new EventEmitter();
  readonly #onListenerError: (error: unknown, event: string) => void;

  constructor(onListenerError: (error: unknown, event: string) => void = warnOfListener) {
    this.#onListenerError = onListenerError;
    this.#emitter.setMaxListeners(0);
  }

  on<K extends keyof SessionEventMap>(event: K, listener: Listener<K>): this {
    this.#emitter.on(event, listener);
    return this;
  }

  once<K extends keyof SessionEventMap>(event: K, listener: Listener<K>): this {
    this.#emitter.once(event, listener);
    return this;
  }

  off<K extends keyof SessionEventMap>(event: K, listener: Listener<K>): this {
    this.#emitter.off(event, listener);
    return this;
  }

  /** @internal only this package emits */
  emit<K extends keyof SessionEventMap>(event: K, payload: SessionEventMap[K]): void {
    for (const listener of this.#emitter.rawListeners(event)) {
      try {
        const result: unknown = (listener as (payload: SessionEventMap[K]) => unknown)(payload);
        // TypeScript lets an async function stand where a plain one is asked for; unheard, its rejection would end the process.
        if (result instanceof Promise) result.catch((error: unknown) => this.#onListenerError(error, event));
      } catch (error) {
        this.#onListenerError(error, event);
      }
    }
  }

  /** @internal lets hot paths skip building a payload nobody wants */
  wants(event: keyof SessionEventMap): boolean {
    return this.#emitter.listenerCount(event) > 0;
  }

  /** @internal */
  removeAllListeners(): void {
    this.#emitter.removeAllListeners();
  }
}

function warnOfListener(error: unknown, event: string): void {
  process.emitWarning(
    `A listener of the session event "${event}" threw: ${String(error)}`,
    'SessionEventsWarning',
  );
}

import type { LoadedSession, TouchResult } from './session-store.js';
import type { SessionRecord } from './session-record.interface.js';

/**
 * The right to put a copy into the near cache, taken out before the store is asked. An invalidation, a write or a new
 * epoch that comes in between takes it away again (COHERENCE rule 6).
 */
export interface FillTicket {
  readonly id: string;
  readonly epoch: CopyEpoch;
  /** Monotonic milliseconds before the store was asked: a copy's life counts from here. */
  readonly sentAt: number;
  /** Versions below this are refused. */
  min: number;
  open: boolean;
}

/** What {@link SessionCache.load} found. */
export interface CacheLoad<L extends LoadedSession> {
  readonly record: SessionRecord;
  /** `cache`: a copy in a file; `store`: a read, this caller's or one it shared. */
  readonly source: 'cache' | 'store';
  /** What this caller's own read brought; null when the record came from a copy or another caller's read. */
  readonly own: L | null;
}

/** What the core needs of the near cache. `CacheService` is the implementation. */
export interface SessionCache {
  readonly enabled: boolean;
  /**
   * The copy under this token if it lies in memory and may be served now.
   *
   * @param now monotonic milliseconds, read for this call
   */
  get(token: string, now: number): SessionRecord | undefined;
  /** The copy under this token if it lies in memory and is current, whatever its age: a base to try a write on. */
  peek(token: string): SessionRecord | undefined;
  /**
   * A copy that may not be served otherwise, when the store cannot be asked and the app has chosen that: one that could
   * have been served `staleFor` ago. Undefined where there is none, or the session has ended by its own deadlines.
   */
  stale(token: string): Promise<SessionRecord | undefined>;
  /**
   * After `get` found nothing: the copy from a file, what another caller is reading at this moment, or what `read`
   * brings; null when there is no such session. Does the guarded fill.
   *
   * @param fresh ask the store, whatever is known here
   */
  load<L extends LoadedSession>(
    token: string,
    id: string,
    read: () => Promise<L | null>,
    fresh: boolean,
  ): Promise<CacheLoad<L> | null>;
  /** Before a write of this process: drops the copy and voids every other ticket of the id. */
  reserveForWrite(id: string): FillTicket;
  /** After the answer; false when the ticket was void. Gives the ticket back. */
  set(ticket: FillTicket, token: string, loaded: LoadedSession): boolean;
  /** Gives a ticket back unused. */
  release(ticket: FillTicket): void;
  /** After a touch: prolongs the copy if the touch met the same version. */
  refresh(token: string, sentAt: number, touched: TouchResult): void;
  /** A session changed: copies below `version` are void. */
  invalidate(id: string, version: number): void;
  /** A session ended. */
  delete(id: string): void;
  /** Any of them may have ended. */
  clear(): void;
}

/**
 * A stretch of time in which nothing can have been missed of some sessions: all that share a place from where changes are
 * told. Each copy has the one it was made in, and is void when that ends. Times are monotonic milliseconds.
 */
export interface CopyEpoch {
  /**
   * Copies may be served and stored before this: every change the store executed up to `leaseMs` before has been told.
   * Grows with each proof; -Infinity before the first, and for good when the epoch has ended.
   */
  readonly liveUntil: number;
  /**
   * The same, but the end of the epoch leaves it as it is; -Infinity once a later epoch was live, which knows nothing of
   * what changed before it.
   */
  readonly provenUntil: number;
  readonly ended: boolean;
}

/** Where near caches learn of changes made by other processes. */
export interface InvalidationSource {
  /** The current epoch of this session's copies. */
  epochOf(id: string): CopyEpoch;
  /** Called synchronously for each message; `version` is Infinity when the session ended. */
  onInvalidation(listener: (id: string, version: number) => void): void;
  /** A fill was refused because of what this source told, or because it was not live. */
  countRefusedFill(): void;
}

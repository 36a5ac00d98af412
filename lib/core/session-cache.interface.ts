import type { LoadedSession, TouchResult } from './session-store.js';
import type { SessionRecord } from './session-record.interface.js';

/**
 * The right to put a copy into the near cache, taken out before the store is asked. An invalidation, a write or a new
 * epoch that comes in between takes it away again (COHERENCE rule 6).
 */
export interface FillTicket {
  readonly id: string;
  readonly epoch: number;
  /** Monotonic milliseconds before the store was asked: a copy's life counts from here. */
  readonly sentAt: number;
  /** Versions below this are refused. */
  min: number;
  open: boolean;
}

/** What the core needs of the near cache. `CacheService` is the implementation. */
export interface SessionCache {
  readonly enabled: boolean;
  /** The copy under this token if it may be served now. */
  get(token: string): SessionRecord | undefined;
  /** The copy under this token if it is current, whatever its age: a base to try a write on. */
  peek(token: string): SessionRecord | undefined;
  /** Before a read. */
  reserve(id: string): FillTicket;
  /** Before a write of this process: drops the copy and every other ticket of the id. */
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
}

/** Where near caches learn of changes made by other processes. */
export interface InvalidationSource {
  /** While false, copies may be neither served nor stored. */
  readonly live: boolean;
  /** Copies of an earlier epoch are void. */
  readonly epoch: number;
  /** Called synchronously for each message; `version` is Infinity when the session ended. */
  onInvalidation(listener: (id: string, version: number) => void): void;
}

import { LRUCache } from 'lru-cache';
import { SYSTEM_CLOCK, type Clock } from '../core/clock.js';
import type { FillTicket, InvalidationSource, SessionCache } from '../core/session-cache.interface.js';
import { deadlineOf, type SessionRecord } from '../core/session-record.interface.js';
import type { LoadedSession, TouchResult } from '../core/session-store.js';
import type { SessionEvents } from '../events/session-events.js';
import type { ResolvedCacheOptions } from '../options/session-options.interface.js';

interface Entry {
  record: SessionRecord;
  readonly epoch: number;
  /** Monotonic milliseconds until which the copy may be served. */
  deadline: number;
}

/**
 * Counts since start, and the size now.
 *
 * @publicApi
 */
export interface CacheStats {
  readonly entries: number;
  readonly hits: number;
  readonly misses: number;
  readonly writes: number;
  /** Copies that were not stored because the session changed, or the link broke, while it was being read. */
  readonly refusedFills: number;
  readonly evictions: number;
  readonly invalidations: number;
}

/**
 * The near cache (L1): copies of records in this process, answering without a round trip.
 *
 * Copies are immutable records with encoded data, so no caller can change what another sees. They are kept by token,
 * because hashing a token to its id costs twenty times the lookup; a second map leads from id to token for
 * invalidations. The rules are those of COHERENCE.md: a copy is served only in the epoch it was stored in, while the
 * source of invalidations is live, and before its deadline.
 *
 * @publicApi
 */
export class CacheService implements SessionCache {
  readonly enabled: boolean;
  readonly #entries: LRUCache<string, Entry>;
  readonly #tokenOfId = new Map<string, string>();
  readonly #tickets = new Map<string, Set<FillTicket>>();
  readonly #ttlRatio: number;
  readonly #maxAge: number;
  #hits = 0;
  #misses = 0;
  #writes = 0;
  #refused = 0;
  #evictions = 0;
  #invalidations = 0;

  constructor(
    options: ResolvedCacheOptions | false,
    private readonly source: InvalidationSource,
    private readonly events: SessionEvents,
    private readonly clock: Clock = SYSTEM_CLOCK,
  ) {
    this.enabled = options !== false;
    this.#ttlRatio = options === false ? 1 : options.ttlRatio;
    this.#maxAge = options === false ? 0 : options.maxAgeMs;
    const maxEntries = options === false ? 1 : options.maxEntries;
    this.#entries = new LRUCache({
      // Without a number of entries lru-cache wants another bound; every entry counts as 1 towards this one.
      ...(maxEntries === 0
        ? { maxSize: Number.MAX_SAFE_INTEGER, sizeCalculation: () => 1 }
        : { max: maxEntries }),
      dispose: (entry, token, reason) => {
        if (reason === 'set') return;
        if (reason === 'evict') this.#evictions++;
        if (this.#tokenOfId.get(entry.record.id) === token) this.#tokenOfId.delete(entry.record.id);
      },
    });
    source.onInvalidation((id, version) => this.invalidate(id, version));
  }

  /** The copy under `token` if it may be served now; counts a hit or a miss. */
  get(token: string): SessionRecord | undefined {
    const entry = this.#entries.get(token);
    if (
      entry !== undefined &&
      entry.epoch === this.source.epoch &&
      this.source.live &&
      this.clock.monotonic() < entry.deadline
    ) {
      this.#hits++;
      return entry.record;
    }
    this.#misses++;
    return undefined;
  }

  /** @internal */
  peek(token: string): SessionRecord | undefined {
    const entry = this.#entries.peek(token);
    return entry !== undefined && entry.epoch === this.source.epoch ? entry.record : undefined;
  }

  /** @internal */
  reserve(id: string): FillTicket {
    const { epoch, live } = this.source;
    const ticket = { id, epoch, sentAt: this.clock.monotonic(), min: -1, open: live && this.enabled };
    if (!ticket.open) return ticket;
    const others = this.#tickets.get(id);
    if (others === undefined) this.#tickets.set(id, new Set([ticket]));
    else others.add(ticket);
    return ticket;
  }

  /** @internal */
  reserveForWrite(id: string): FillTicket {
    this.#drop(id);
    for (const other of this.#tickets.get(id) ?? []) other.open = false;
    return this.reserve(id);
  }

  /** @internal */
  set(ticket: FillTicket, token: string, loaded: LoadedSession): boolean {
    const granted = this.#grant(ticket, token, loaded);
    this.release(ticket);
    if (!granted) this.#refused += this.enabled ? 1 : 0;
    return granted;
  }

  /** @internal */
  release(ticket: FillTicket): void {
    ticket.open = false;
    const tickets = this.#tickets.get(ticket.id);
    if (tickets === undefined) return;
    tickets.delete(ticket);
    if (tickets.size === 0) this.#tickets.delete(ticket.id);
  }

  /** @internal */
  refresh(token: string, sentAt: number, touched: TouchResult): void {
    const entry = this.#entries.peek(token);
    if (entry === undefined || entry.epoch !== this.source.epoch || entry.record.version !== touched.version)
      return;
    entry.record = { ...entry.record, lastAccess: touched.lastAccess };
    entry.deadline = this.#deadline(sentAt, entry.record, touched.now);
  }

  /** @internal */
  invalidate(id: string, version: number): void {
    this.#invalidations++;
    for (const ticket of this.#tickets.get(id) ?? []) if (version > ticket.min) ticket.min = version;
    const token = this.#tokenOfId.get(id);
    if (token === undefined) return;
    const entry = this.#entries.peek(token);
    if (entry === undefined || entry.record.version < version) this.#entries.delete(token);
  }

  /** Forgets a session; reads of it that are under way will not be stored. */
  delete(id: string): void {
    this.invalidate(id, Infinity);
  }

  /** Forgets everything and emits `cacheClear` with the number of copies there were. */
  clear(): number {
    const size = this.#entries.size;
    for (const tickets of this.#tickets.values()) for (const ticket of tickets) ticket.open = false;
    this.#entries.clear();
    this.#tokenOfId.clear();
    this.events.emit('cacheClear', { size });
    return size;
  }

  /** Number of copies held, void ones of an earlier epoch included until they are replaced or evicted. */
  get size(): number {
    return this.#entries.size;
  }

  stats(): CacheStats {
    return {
      entries: this.#entries.size,
      hits: this.#hits,
      misses: this.#misses,
      writes: this.#writes,
      refusedFills: this.#refused,
      evictions: this.#evictions,
      invalidations: this.#invalidations,
    };
  }

  #grant(ticket: FillTicket, token: string, { record, now }: LoadedSession): boolean {
    if (
      !ticket.open ||
      !this.source.live ||
      ticket.epoch !== this.source.epoch ||
      record.version < ticket.min
    )
      return false;
    const held = this.#entries.peek(token);
    if (held !== undefined && held.epoch === ticket.epoch && held.record.version > record.version)
      return false;
    const deadline = this.#deadline(ticket.sentAt, record, now);
    this.#entries.set(token, { record, epoch: ticket.epoch, deadline });
    this.#tokenOfId.set(record.id, token);
    this.#writes++;
    if (this.events.wants('cacheWrite')) this.events.emit('cacheWrite', { id: record.id });
    return true;
  }

  /**
   * Counted from before the store was asked, so that a copy never outlives the session it was made from. One
   * millisecond less, because the store's `now` is cut to whole ones and may be nearly one more.
   */
  #deadline(sentAt: number, record: SessionRecord, storeNow: number): number {
    return sentAt + Math.min((deadlineOf(record) - storeNow - 1) * this.#ttlRatio, this.#maxAge);
  }

  #drop(id: string): void {
    const token = this.#tokenOfId.get(id);
    if (token !== undefined) this.#entries.delete(token);
  }
}

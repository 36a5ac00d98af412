import { hash } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { SYSTEM_CLOCK, type Clock } from '../core/clock.js';
import type {
  CacheLoad,
  CopyEpoch,
  FillTicket,
  InvalidationSource,
  SessionCache,
} from '../core/session-cache.interface.js';
import { deadlineOf, type SessionRecord } from '../core/session-record.interface.js';
import type { LoadedSession, TouchResult } from '../core/session-store.js';
import type { CacheStats, SessionEvents } from '../events/session-events.js';
import type { ResolvedCacheOptions } from '../options/session-options.interface.js';
import { changed, Copy, type CopyFile, type CopyTimes } from './copy.js';
import type { FileCache } from './file-cache.js';

/**
 * Tokens without a session are remembered for this long, and this many of them: enough to keep one that is tried again
 * and again from the store, too little to matter where the store forgot to tell that it exists now.
 */
const UNKNOWN_AGE_MS = 5_000;
const UNKNOWN_ENTRIES = 4_096;

/** Files being written at once; where the disk is slower than that, further copies are not kept. */
const MAX_FILES_WRITING = 256;

type SessionLife = Parameters<typeof deadlineOf>[0];

interface Read {
  readonly ticket: FillTicket;
  readonly answer: Promise<LoadedSession | null>;
}

/**
 * The near cache (L1): copies of records in this process, answering without a round trip.
 *
 * Copies are immutable records with encoded data, so no caller can change what another sees. They are kept by token,
 * because hashing a token to its id costs twenty times the lookup; a second map leads from id to token for
 * invalidations. The rules are those of COHERENCE.md: a copy is served only in the epoch it was stored in, while the
 * lease holds, and before its deadline.
 *
 * With `cache.type: 'file'` this index stays in memory and the records lie in files. A read of a file takes time, so
 * the index is asked again after it (rule 10).
 *
 * @publicApi
 */
export class CacheService implements SessionCache {
  readonly enabled: boolean;
  readonly #copies: LRUCache<string, Copy>;
  readonly #tokenOfId = new Map<string, string>();
  readonly #tickets = new Map<string, Set<FillTicket>>();
  readonly #reads = new Map<string, Read>();
  readonly #unknown = new LRUCache<string, { readonly epoch: CopyEpoch; readonly until: number }>({
    max: UNKNOWN_ENTRIES,
  });
  readonly #ttlRatio: number;
  readonly #maxAge: number;
  /** Infinity where there is no limit. */
  readonly #maxBytes: number;
  /** Copies that `staleRead` has been emitted for in this outage. */
  readonly #toldStale = new WeakSet<Copy>();
  /** What tells one writing of a file from another, by the copy that waits for it. */
  readonly #writing = new WeakMap<Copy, object>();
  #cursor: Iterator<string> | undefined;
  #clearing = false;
  /** How much longer than otherwise a copy may be served while the store cannot be asked; 0 = not at all. */
  #staleForMs = 0;
  #bytes = 0;
  #hits = 0;
  #misses = 0;
  #sharedMisses = 0;
  #unknownHits = 0;
  #writes = 0;
  #refused = 0;
  #skipped = 0;
  #evictions = 0;
  #invalidations = 0;

  /** @internal provided by `SessionModule` */
  constructor(
    options: ResolvedCacheOptions | false,
    private readonly source: InvalidationSource,
    private readonly events: SessionEvents,
    private readonly clock: Clock = SYSTEM_CLOCK,
    /** Where the records lie; null for memory. */
    private readonly files: FileCache | null = null,
  ) {
    this.enabled = options !== false;
    this.#ttlRatio = options === false ? 1 : options.ttlRatio;
    this.#maxAge = options === false ? 0 : options.maxAgeMs;
    const { maxEntries, maxBytes } = options === false ? { maxEntries: 1, maxBytes: 0 } : options;
    this.#maxBytes = maxBytes || Infinity;
    this.#copies = new LRUCache<string, Copy>({
      // Without either limit lru-cache wants another bound; every entry counts as 1 towards this one.
      ...(maxBytes > 0
        ? { max: maxEntries, maxSize: maxBytes, sizeCalculation: ({ bytes }: Copy) => Math.max(1, bytes) }
        : maxEntries > 0
          ? { max: maxEntries }
          : { maxSize: Number.MAX_SAFE_INTEGER, sizeCalculation: () => 1 }),
      dispose: (copy, token, reason) => {
        if (this.#clearing) return;
        this.#bytes -= copy.bytes;
        if (reason === 'set') return;
        if (copy.file !== null) this.files?.remove(copy.id, copy.file);
        if (reason === 'evict') this.#evictions++;
        if (this.#tokenOfId.get(copy.id) === token) this.#tokenOfId.delete(copy.id);
      },
    });
    source.onInvalidation((id, version) => this.invalidate(id, version));
  }

  /** @internal */
  async open(): Promise<void> {
    await this.files?.open();
  }

  /** @internal Forgets everything, in silence; files are removed. */
  async close(): Promise<void> {
    this.#forget();
    await this.files?.close();
  }

  /**
   * The copy under `token` if it lies in memory and may be served now; counts a hit or a miss. One in a file is for
   * `SessionService.get` to read, which counts it.
   *
   * @param now leave it out: it saves callers that have just read the clock from doing so again
   */
  get(token: string, now = this.clock.glance()): SessionRecord | undefined {
    const copy = this.#copies.peek(token);
    if (copy !== undefined && copy.servesAt(now)) {
      if (copy.file !== null) return undefined;
      this.#hits++;
      // Moving it to the end of the list costs as much as finding it, and only new copies displace others.
      if (copy.usedAt + (this.#copies.size >> 3) <= this.#writes) this.#use(token, copy);
      return copy;
    }
    this.#misses++;
    return undefined;
  }

  /** @internal */
  peek(token: string): SessionRecord | undefined {
    const copy = this.#copies.peek(token);
    return copy !== undefined && copy.file === null && !copy.epoch.ended ? copy : undefined;
  }

  /** @internal Lets {@link stale} serve copies. */
  serveStale(staleForMs: number): void {
    this.#staleForMs = staleForMs;
  }

  /** @internal */
  async stale(token: string): Promise<SessionRecord | undefined> {
    const copy = this.#copies.get(token);
    const may = (one: Copy) => one.servesStaleAt(this.clock.monotonic(), this.#staleForMs);
    if (copy === undefined || !may(copy)) return undefined;
    const { file } = copy;
    const record = file === null ? copy : await this.#recordIn(token, copy.id, file, may);
    if (record !== undefined && !this.#toldStale.has(copy)) {
      this.#toldStale.add(copy);
      this.events.emit('staleRead', { id: record.id });
    }
    return record;
  }

  /** @internal */
  async load<L extends LoadedSession>(
    token: string,
    id: string,
    read: () => Promise<L | null>,
    fresh: boolean,
  ): Promise<CacheLoad<L> | null> {
    if (!fresh && this.enabled) {
      const copy = this.files === null ? undefined : await this.#readFile(token);
      if (copy !== undefined) return { record: copy, source: 'cache', own: null };
      if (this.#isUnknown(id)) return null;
      const shared = this.#shareRead(id);
      if (shared !== null) {
        this.#sharedMisses++;
        const loaded = await shared.answer;
        // What was told meanwhile is known here: an answer from before it must not be handed out after it.
        // An answer of another id, which took the place of this one, is told of under that: it is for who asked only.
        if (this.#isUntouched(shared.ticket) && (loaded === null || loaded.record.id === id))
          return loaded && { record: loaded.record, source: 'store', own: null };
      }
    }
    const own = await this.#read(token, id, read);
    if (own === null) return null;
    // The copy where there is one now, so that what is decoded of it once serves the hits that follow.
    const kept = this.peek(token);
    return {
      record: kept !== undefined && isAsRead(kept, own.record) ? kept : own.record,
      source: 'store',
      own,
    };
  }

  /** @internal */
  reserve(id: string): FillTicket {
    const sentAt = this.clock.monotonic();
    const epoch = this.source.epochOf(id);
    const open = this.enabled && sentAt < epoch.liveUntil;
    const ticket = { id, epoch, sentAt, min: -1, open };
    if (!open) return ticket;
    const others = this.#tickets.get(id);
    if (others === undefined) this.#tickets.set(id, new Set([ticket]));
    else others.add(ticket);
    return ticket;
  }

  /** @internal */
  reserveForWrite(id: string): FillTicket {
    this.#drop(id);
    this.#unknown.delete(id);
    for (const other of this.#tickets.get(id) ?? []) {
      other.open = false;
      other.min = Infinity;
    }
    return this.reserve(id);
  }

  /** @internal */
  set(ticket: FillTicket, token: string, loaded: LoadedSession): boolean {
    // Reads that are still under way may have begun before the write whose answer this is.
    this.#unknown.delete(ticket.id);
    this.#raise(ticket.id, loaded.record.version);
    return this.#fill(ticket, token, loaded);
  }

  #fill(ticket: FillTicket, token: string, loaded: LoadedSession): boolean {
    const isTooLarge = this.#maxBytes !== Infinity && sizeOf(loaded.record) > this.#maxBytes;
    if (isTooLarge || (this.files !== null && this.files.writing >= MAX_FILES_WRITING)) {
      this.#skipped++;
      this.release(ticket);
      const held = this.#copies.peek(token);
      if (held !== undefined && held.version < loaded.record.version) this.#copies.delete(token);
      return false;
    }
    const granted = this.#grant(ticket, token, loaded);
    this.release(ticket);
    if (!granted && this.enabled) {
      // Void or not, an older copy is known not to be what the session is now.
      const { id, version } = loaded.record;
      const held = this.#copies.peek(this.#tokenOfId.get(id) ?? token);
      if (held !== undefined && held.version < version) this.#drop(id);
      this.#refused++;
      this.source.countRefusedFill();
    }
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
    const copy = this.#copies.peek(token);
    if (copy === undefined || copy.epoch.ended || copy.version !== touched.version) return;
    // A touch tells of the session's life, not of its data: those are read again after maxAge all the same.
    this.#renew(token, copy, touched, sentAt, copy.readAt);
  }

  /** @internal */
  invalidate(id: string, version: number): void {
    this.#invalidations++;
    this.#unknown.delete(id);
    this.#raise(id, version);
    const token = this.#tokenOfId.get(id);
    if (token === undefined) return;
    const copy = this.#copies.peek(token);
    if (copy === undefined || copy.version < version) this.#copies.delete(token);
  }

  /** Forgets a session; reads of it that are under way will not be stored. */
  delete(id: string): void {
    this.invalidate(id, Infinity);
  }

  /** Forgets everything and emits `cacheClear` with the number of copies there were. */
  clear(): number {
    const { size } = this.#copies;
    this.#forget();
    this.files?.clear();
    this.events.emit('cacheClear', { size });
    return size;
  }

  /**
   * Looks at up to `count` copies, going on where the last call ended, and drops those that will not be served any
   * more. Returns their number.
   *
   * @internal
   */
  dropExpired(count: number): number {
    const now = this.clock.monotonic();
    let dropped = 0;
    for (let looked = 0; looked < count; looked++) {
      // An iterator of a Map goes on where it was, whatever is set or deleted meanwhile.
      this.#cursor ??= this.#tokenOfId.values();
      const { done, value: token } = this.#cursor.next() as IteratorResult<string, undefined>;
      if (done === true || token === undefined) {
        this.#cursor = undefined;
        break;
      }
      const copy = this.#copies.peek(token);
      if (copy?.isOverAt(now) === false || copy?.servesStaleAt(now, this.#staleForMs) === true) continue;
      this.#copies.delete(token);
      dropped++;
    }
    return dropped;
  }

  /** Number of copies held, void ones of an earlier epoch included until they are replaced or evicted. */
  get size(): number {
    return this.#copies.size;
  }

  stats(): CacheStats {
    return {
      entries: this.#copies.size,
      bytes: this.#bytes,
      hits: this.#hits,
      misses: this.#misses,
      sharedMisses: this.#sharedMisses,
      unknownHits: this.#unknownHits,
      writes: this.#writes,
      refusedFills: this.#refused,
      skippedFills: this.#skipped,
      evictions: this.#evictions,
      invalidations: this.#invalidations,
    };
  }

  /** @internal */
  report(): CacheStats {
    const stats = this.stats();
    this.events.emit('cacheReport', stats);
    return stats;
  }

  #use(token: string, copy: Copy): void {
    this.#copies.get(token);
    copy.usedAt = this.#writes;
  }

  /** Reads from the store under a ticket, and keeps what comes: a copy, or that there is nothing. */
  async #read<L extends LoadedSession>(
    token: string,
    id: string,
    read: () => Promise<L | null>,
  ): Promise<L | null> {
    const ticket = this.reserve(id);
    const answer = read();
    const pending = { ticket, answer };
    if (ticket.open) this.#reads.set(id, pending);
    try {
      const loaded = await answer;
      // What another id has taken the place of is never kept: its invalidations name the other id.
      if (loaded === null) this.#onAbsent(ticket);
      else if (loaded.record.id === id) this.#fill(ticket, token, loaded);
      return loaded;
    } finally {
      this.release(ticket);
      if (this.#reads.get(id) === pending) this.#reads.delete(id);
    }
  }

  /**
   * What another caller is reading, if that is as good as a copy: nothing has been told of the session since its read
   * began, and the lease holds.
   */
  #shareRead(id: string): Read | null {
    const read = this.#reads.get(id);
    return read !== undefined && read.ticket.open && this.#isUntouched(read.ticket) ? read : null;
  }

  /** Nothing has been told of the session since the ticket was taken out, and nothing can have been missed. */
  #isUntouched({ min, epoch }: FillTicket): boolean {
    return min === -1 && this.clock.monotonic() < epoch.liveUntil;
  }

  #isUnknown(id: string): boolean {
    const known = this.#unknown.get(id);
    if (known === undefined) return false;
    const now = this.clock.monotonic();
    if (now >= known.until || now >= known.epoch.liveUntil) return false;
    this.#unknownHits++;
    return true;
  }

  #onAbsent(ticket: FillTicket): void {
    const { id, epoch, sentAt } = ticket;
    this.#drop(id); // a void copy too: it might be served as a stale one
    if (!ticket.open || !this.#isUntouched(ticket)) return; // nothing can be said of now
    this.#unknown.set(id, { epoch, until: sentAt + UNKNOWN_AGE_MS });
  }

  #grant(ticket: FillTicket, token: string, { record, now: storeNow }: LoadedSession): boolean {
    const { epoch, sentAt } = ticket;
    if (!ticket.open || this.clock.monotonic() >= epoch.liveUntil || record.version < ticket.min)
      return false;
    const held = this.#copies.peek(token);
    if (held !== undefined && held.epoch === epoch && held.version > record.version) return false;
    if (held !== undefined && held.epoch === epoch && isTheSame(held, record)) {
      // Read by a strict route for example: it lives longer, and no file need be written.
      this.#renew(token, held, { lastAccess: record.lastAccess, now: storeNow }, sentAt, sentAt);
      return true;
    }
    const copy = new Copy(record, epoch, this.#times(record, storeNow, sentAt, sentAt), ++this.#writes);
    const key = this.#tokenOfId.get(record.id) ?? detached(token);
    this.#copies.set(key, copy);
    this.#bytes += copy.bytes;
    if (held !== undefined && held.file !== null) this.files?.remove(held.id, held.file);
    this.#tokenOfId.set(record.id, key);
    if (this.files !== null) void this.#moveToFile(this.files, key, copy);
    if (this.events.wants('cacheWrite')) this.events.emit('cacheWrite', { id: record.id });
    return true;
  }

  /** The copy serves from memory until its file is there; so own writes are served at once from files too. */
  async #moveToFile(files: FileCache, token: string, copy: Copy): Promise<void> {
    const writing = {};
    this.#writing.set(copy, writing);
    const file = await files.write(changed(copy, {})); // encoders of apps may take plain objects only
    const held = this.#copies.peek(token); // it may have been renewed
    if (held === undefined || this.#writing.get(held) !== writing) {
      if (file !== null) files.remove(copy.id, file);
    } else if (file === null) {
      this.#copies.delete(token);
    } else {
      const filed = held.filed({ ...file, digest: digestOf(copy) });
      this.#replace(token, filed);
      if (this.#toldStale.has(held)) this.#toldStale.add(filed);
    }
  }

  /** What was told of a session's life, of the same version as the copy. */
  #renew(
    token: string,
    copy: Copy,
    told: Pick<TouchResult, 'lastAccess' | 'now'>,
    sentAt: number,
    readAt: number,
  ): void {
    const { lastAccess, now } = told;
    const { idleTimeout, absoluteDeadline } = copy;
    const life = { lastAccess, idleTimeout, absoluteDeadline };
    const renewed = copy.renewed(lastAccess, this.#times(life, now, sentAt, readAt));
    this.#replace(token, renewed);
    const writing = this.files === null ? undefined : this.#writing.get(copy);
    if (writing !== undefined) this.#writing.set(renewed, writing);
  }

  /** Puts a copy in the place of the same one. */
  #replace(token: string, copy: Copy): void {
    this.#copies.set(token, copy);
    this.#bytes += copy.bytes;
  }

  /** The copy in a file, if it may be served before and after the file was read. */
  async #readFile(token: string): Promise<SessionRecord | undefined> {
    const copy = this.#copies.get(token);
    if (copy === undefined || !copy.servesAt(this.clock.monotonic())) return undefined;
    copy.usedAt = this.#writes;
    const { file } = copy;
    if (file === null) {
      this.#hits++;
      return copy;
    }
    const may = (one: Copy) => one.servesAt(this.clock.monotonic());
    const record = await this.#recordIn(token, copy.id, file, may);
    if (record === undefined) this.#misses++;
    else this.#hits++;
    return record;
  }

  /** What lies in the file, if the copy may be served after that was read too. */
  async #recordIn(
    token: string,
    id: string,
    file: CopyFile,
    may: (copy: Copy) => boolean,
  ): Promise<SessionRecord | undefined> {
    const read = await this.files!.read(id, file);
    const copy = this.#copies.peek(token); // it may have been renewed
    if (copy === undefined || copy.file !== file || !may(copy)) return undefined;
    const { metadata, data } = (read?.body ?? {}) as Partial<SessionRecord>;
    if (typeof data !== 'string' || digestOf({ metadata, data }) !== file.digest) {
      // The file is damaged, or the decoder does not undo what the encoder did.
      if (read !== null) this.events.emit('cacheError', { operation: 'read', id, code: 'EBADBODY' });
      this.#copies.delete(token);
      return undefined;
    }
    return changed(copy, { metadata: Object.freeze(metadata!), data });
  }

  /**
   * Counted from before the store was asked, so that a copy never outlives the session it was made from.
   *
   * @param sentAt when it was asked for the session's life
   * @param readAt when it was asked for its data
   */
  #times(record: SessionLife, storeNow: number, sentAt: number, readAt: number): CopyTimes {
    // One millisecond less, because the store's `now` is cut to whole ones and may be nearly one more.
    const left = deadlineOf(record) - storeNow - 1;
    return {
      deadline: Math.min(sentAt + left * this.#ttlRatio, readAt + this.#maxAge),
      endsAt: sentAt + left,
      readAt,
    };
  }

  #raise(id: string, version: number): void {
    for (const ticket of this.#tickets.get(id) ?? []) if (version > ticket.min) ticket.min = version;
  }

  #drop(id: string): void {
    const token = this.#tokenOfId.get(id);
    if (token !== undefined) this.#copies.delete(token);
  }

  #forget(): void {
    for (const tickets of this.#tickets.values()) for (const ticket of tickets) ticket.open = false;
    this.#clearing = true; // files go all together
    this.#copies.clear();
    this.#clearing = false;
    this.#bytes = 0;
    this.#tokenOfId.clear();
    this.#unknown.clear();
    this.#cursor = undefined;
  }
}

/** Nothing of it is older than what was read: a copy that could not be renewed may have been touched since. */
function isAsRead(copy: SessionRecord, read: SessionRecord): boolean {
  return copy.version === read.version && copy.lastAccess === read.lastAccess && copy.data === read.data;
}

/** The same data, as far as that shows: of a copy whose data lies in a file, by its version. */
function isTheSame(held: Copy, read: SessionRecord): boolean {
  return held.version === read.version && (held.file !== null || held.data === read.data);
}

/** A copy of its own: a token is a slice of a Cookie header, and would keep all of that in memory as long as it lives. */
function detached(token: string): string {
  return Buffer.from(token, 'latin1').toString('latin1');
}

function sizeOf({ data }: SessionRecord): number {
  return Buffer.byteLength(data);
}

function digestOf({ metadata, data }: Pick<Partial<SessionRecord>, 'metadata' | 'data'>): string {
  return hash('sha1', `${JSON.stringify(metadata)}\n${data}`, 'base64');
}

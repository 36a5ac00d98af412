import { Logger } from '@nestjs/common';
import { LRUCache } from 'lru-cache';
import { SYSTEM_CLOCK, type Clock } from '../core/clock.js';
import { deadlineOf, type SessionRecord } from '../core/session-record.interface.js';
import {
  comesAfter,
  SessionStore,
  type CreateResult,
  type DisplacedSession,
  type ExpiredSession,
  type LoadedSession,
  type MoveResult,
  type NewSession,
  type SessionChange,
  type SessionFence,
  type TouchResult,
  type WriteResult,
} from '../core/session-store.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import { LIMITS } from '../options/session-options.defaults.js';

/** Every how many milliseconds expired sessions are looked for, and how many are looked at each time. */
const PRUNE_INTERVAL_MS = 1_000;
const PRUNE_BATCH = 2_000;
/** In how many steps all have been looked at, however many there are. */
const PRUNE_PASS_STEPS = 20;
/** How long sessions of a user keep their ids while they are being ended; milliseconds. */
const FENCE_MS = 3_000;
/** Expired sessions that wait to be told, where nobody sweeps. */
const MAX_EXPIRED = 100_000;

/** These keep their ids until then, but for those spared. */
interface Fence {
  readonly ids: ReadonlySet<string>;
  readonly spared: Set<string>;
  until: number;
}

/** @publicApi */
export interface MemorySessionStoreOptions {
  /** Most sessions kept; beyond it the least recently used one is ended, and a warning logged. @default 100000 */
  maxSessions?: number;
  /** @internal for tests */
  clock?: Pick<Clock, 'wall'>;
}

/**
 * Sessions in the memory of this process: for development, tests and apps of one process that may forget everyone on
 * restart. Bounded, and pruned in small steps by a timer that never keeps the process alive. Every operation is atomic,
 * because none gives the event loop away.
 * Times are those of this process's wall clock: set forward, it ends sessions early by as much; set back, it prolongs them.
 *
 * @publicApi
 */
export class MemorySessionStore extends SessionStore {
  override readonly capabilities = { versions: true, index: true, aliases: true, exclusive: true } as const;
  readonly #listeners = new Set<(id: string, version: number) => void>();
  readonly #logger = new Logger('SessionModule');
  readonly #records: LRUCache<string, SessionRecord>;
  readonly #idsOfUser = new Map<string, Set<string>>();
  /** Old ids that still lead to the session that took their place. */
  readonly #aliases = new Map<
    string,
    { readonly id: string; readonly reads: number; readonly until: number }
  >();
  /** Users whose sessions are being ended, by several at once perhaps; null stands for all. */
  readonly #fences = new Map<string | null, Set<Fence>>();
  readonly #clock: Pick<Clock, 'wall'>;
  /** Told by the next `sweep`. */
  readonly #expired: ExpiredSession[] = [];
  #timer: NodeJS.Timeout | undefined;
  /** Ids that are still to be looked at by the pass that is under way, the last one first. */
  #unpruned: string[] = [];
  #lastVersion = 0;
  #warnedOfEviction = false;

  constructor(options: MemorySessionStoreOptions = {}) {
    super();
    const max = options.maxSessions ?? 100_000;
    if (!Number.isInteger(max) || max < 1 || max > LIMITS.entries) {
      throw new SessionArgumentError(
        'maxSessions',
        `must be a whole number from 1 to ${LIMITS.entries}; got ${String(max)}.`,
      );
    }
    this.#clock = options.clock ?? SYSTEM_CLOCK;
    this.#records = new LRUCache({
      // By size, one each, as `max` would lay out its lists for all of them at once: 14 ms for 100,000.
      maxSize: max,
      sizeCalculation: () => 1,
      dispose: (record, id, reason) => {
        if (reason === 'set') return;
        this.#delist(record);
        this.#announce(id, Infinity);
        if (reason === 'evict') this.#warnOfEviction(max);
      },
    });
  }

  override onChange(listener: (id: string, version: number) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  override async open(): Promise<void> {
    this.#timer ??= setInterval(() => this.#prune(), PRUNE_INTERVAL_MS).unref();
  }

  override async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async create(session: NewSession): Promise<CreateResult> {
    if ((this.#live(session.id) ?? this.#aliased(session.id, 'until')) !== undefined)
      return { status: 'taken' };
    const displaced = this.#makeRoom(session);
    if (displaced === null) return { status: 'limit' };
    const added = this.#add(session);
    this.#announce(session.id, added.record.version);
    return { status: 'created', displaced, ...added };
  }

  async get(id: string): Promise<LoadedSession | null> {
    const record = this.#live(id) ?? this.#aliased(id, 'reads');
    return record === undefined ? null : { record, now: this.#clock.wall() };
  }

  override async successorOf(id: string): Promise<SessionRecord | null> {
    return this.#aliased(id, 'until') ?? null;
  }

  async set(change: SessionChange): Promise<WriteResult> {
    const current = this.#live(change.base.id);
    const now = this.#clock.wall();
    if (current === undefined) return { status: 'gone' };
    if (current.version !== change.base.version)
      return { status: 'conflict', uncertain: false, record: current, now };
    const lastAccess = change.keepExpiry ? current.lastAccess : now;
    const { data, idleTimeout = current.idleTimeout } = change;
    const record = { ...current, version: this.#nextVersion(), lastAccess, idleTimeout, data };
    this.#records.set(record.id, record);
    this.#announce(record.id, record.version);
    return { status: 'written', record, now };
  }

  async touch(id: string, minInterval: number): Promise<TouchResult | null> {
    const record = this.#live(id);
    const now = this.#clock.wall();
    if (record === undefined) return null;
    if (now - record.lastAccess < minInterval)
      return { version: record.version, lastAccess: record.lastAccess, now };
    this.#records.set(id, { ...record, lastAccess: now });
    return { version: record.version, lastAccess: now, now };
  }

  async destroy(id: string): Promise<boolean> {
    const live = this.#live(id) !== undefined;
    this.#records.delete(id);
    return live;
  }

  override async destroyMany(ids: readonly string[]): Promise<readonly string[]> {
    return ids.filter((id) => {
      const live = this.#live(id) !== undefined;
      this.#records.delete(id);
      return live;
    });
  }

  async move(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const current = this.#live(base.id);
    const now = this.#clock.wall();
    if (current === undefined) return { status: 'gone' };
    if (current.version !== base.version)
      return { status: 'conflict', uncertain: false, record: current, now };
    const sameUser = base.userId === next.userId;
    if (sameUser && (this.#isFenced(base.id, null) || this.#isFenced(base.id, base.userId)))
      return { status: 'gone' };
    const displaced = this.#makeRoom(next, base.id);
    if (displaced === null) return { status: 'limit' };
    this.#records.delete(base.id);
    const { alias } = next;
    if (!sameUser) return { status: 'moved', displaced, ...this.#add(next) };
    for (const { spared } of this.#fences.get(base.userId) ?? [])
      if (spared.has(base.id)) spared.add(next.id);
    if (alias !== undefined)
      this.#aliases.set(base.id, { id: next.id, reads: now + alias.readMs, until: now + alias.keepMs });
    const { createdAt, absoluteDeadline } = current;
    const inherited = next.restartsAbsolute === true ? { createdAt } : { createdAt, absoluteDeadline };
    return { status: 'moved', displaced, ...this.#add(next, inherited) };
  }

  async *all(): AsyncGenerator<SessionRecord> {
    // A snapshot: the consumer may end sessions between two steps.
    const ids = Array.from(this.#records.keys());
    for (const id of ids) {
      const record = this.#look(id);
      if (record !== undefined) yield record;
    }
  }

  async length(): Promise<number> {
    const now = this.#clock.wall();
    let count = 0;
    for (const record of this.#records.values()) if (deadlineOf(record) > now) count++;
    return count;
  }

  async clear(
    onEnded?: (sessions: readonly { readonly id: string; readonly userId: string | null }[]) => void,
  ): Promise<void> {
    this.#aliases.clear();
    const ids = Array.from(this.#records.keys());
    const fence = this.#setFence(null, ids);
    for (let start = 0; start < ids.length; start += PRUNE_BATCH) {
      const live = ids.slice(start, start + PRUNE_BATCH).flatMap((id) => this.#live(id) ?? []);
      for (const { id } of live) this.#records.delete(id);
      onEnded?.(live);
      fence.until = this.#clock.wall() + FENCE_MS;
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#releaseFence(null, fence);
  }

  override async now(): Promise<number> {
    return this.#clock.wall();
  }

  override async sweep(onExpired: (session: ExpiredSession) => void): Promise<void> {
    for (const session of this.#expired.splice(0)) onExpired(session);
  }

  override async userSessions(userId: string): Promise<{ records: SessionRecord[]; now: number }> {
    const records = [...(this.#idsOfUser.get(userId) ?? [])].flatMap((id) => this.#look(id) ?? []);
    records.sort((a, b) => (comesAfter(a, b) ? 1 : -1));
    return { records, now: this.#clock.wall() };
  }

  override async fence(userId: string, spared: readonly string[]): Promise<SessionFence> {
    const fence = this.#setFence(userId, this.#idsOfUser.get(userId) ?? [], spared);
    return { spared: async () => fence.spared, release: async () => this.#releaseFence(userId, fence) };
  }

  /** @param userId null: everybody's sessions */
  #setFence(userId: string | null, ids: Iterable<string>, spared: readonly string[] = []): Fence {
    const fence = { ids: new Set(ids), spared: new Set(spared), until: this.#clock.wall() + FENCE_MS };
    this.#fences.set(userId, (this.#fences.get(userId) ?? new Set()).add(fence));
    return fence;
  }

  #releaseFence(userId: string | null, fence: Fence): void {
    const fences = this.#fences.get(userId);
    fences?.delete(fence);
    if (fences?.size === 0) this.#fences.delete(userId);
  }

  #isFenced(id: string, userId: string | null): boolean {
    const now = this.#clock.wall();
    for (const { ids, spared, until } of this.#fences.get(userId) ?? [])
      if (ids.has(id) && !spared.has(id) && now < until) return true;
    return false;
  }

  /** The live record; counts as use of it for `maxSessions`. */
  #live(id: string): SessionRecord | undefined {
    return this.#unlessExpired(this.#records.get(id));
  }

  /** The same for lists, which are no use of what they show. */
  #look(id: string): SessionRecord | undefined {
    return this.#unlessExpired(this.#records.peek(id));
  }

  #unlessExpired(record: SessionRecord | undefined): SessionRecord | undefined {
    if (record === undefined || deadlineOf(record) > this.#clock.wall()) return record;
    this.#expire(record);
    return undefined;
  }

  #expire({ id, userId, metadata }: SessionRecord): void {
    this.#records.delete(id);
    this.#expired.push({ id, userId, metadata });
    if (this.#expired.length > MAX_EXPIRED) this.#expired.shift();
  }

  /**
   * What of the user's has to go so that one more may come; null where it may not.
   *
   * @param leaving goes anyway
   */
  #makeRoom({ userId, limit }: NewSession, leaving?: string): DisplacedSession[] | null {
    if (limit === undefined || userId === null) return [];
    const ids = [...(this.#idsOfUser.get(userId) ?? [])].filter((id) => id !== leaving);
    const live = ids.flatMap((id) => this.#live(id) ?? []).sort((a, b) => (comesAfter(a, b) ? -1 : 1));
    const excess = live.slice(0, Math.max(0, live.length - limit.max + 1));
    if (excess.length > 0 && limit.policy === 'reject') return null;
    return excess.map(({ id, metadata }) => {
      this.#records.delete(id);
      return { id, reason: 'evicted', metadata };
    });
  }

  #aliased(id: string, until: 'reads' | 'until'): SessionRecord | undefined {
    const alias = this.#aliases.get(id);
    return alias !== undefined && alias[until] > this.#clock.wall() ? this.#live(alias.id) : undefined;
  }

  #add(session: NewSession, inherited: Partial<SessionRecord> = {}): LoadedSession {
    const now = this.#clock.wall();
    const { id, userId, idleTimeout, absoluteTimeout, metadata, data } = session;
    const record: SessionRecord = {
      id,
      userId,
      version: this.#nextVersion(),
      createdAt: now,
      lastAccess: now,
      idleTimeout,
      absoluteDeadline: absoluteTimeout === 0 ? 0 : now + absoluteTimeout,
      metadata,
      data,
      ...inherited,
    };
    this.#records.set(id, record);
    if (userId !== null) {
      const ids = this.#idsOfUser.get(userId) ?? new Set();
      this.#idsOfUser.set(userId, ids.add(id));
    }
    return { record, now };
  }

  #delist({ id, userId }: SessionRecord): void {
    if (userId === null) return;
    const ids = this.#idsOfUser.get(userId);
    ids?.delete(id);
    if (ids?.size === 0) this.#idsOfUser.delete(userId);
  }

  #announce(id: string, version: number): void {
    for (const listener of this.#listeners) listener(id, version);
  }

  /** Never the same twice, so that a re-created id is not taken for its former self. */
  #nextVersion(): number {
    return (this.#lastVersion = Math.max(this.#lastVersion + 1, this.#clock.wall() * 1000));
  }

  #prune(): void {
    const now = this.#clock.wall();
    for (const [id, { until }] of this.#aliases) {
      if (until > now) break; // all live equally long: the oldest stand first
      this.#aliases.delete(id);
    }
    for (const [user, fences] of this.#fences)
      for (const fence of fences) if (fence.until <= now) this.#releaseFence(user, fence);
    // Of ids, because what is ended and made meanwhile would lead an iterator back to the beginning.
    if (this.#unpruned.length === 0) this.#unpruned = Array.from(this.#records.keys());
    const most = Math.max(PRUNE_BATCH, Math.ceil(this.#records.size / PRUNE_PASS_STEPS));
    for (let looked = 0; looked < most; looked++) {
      const id = this.#unpruned.pop();
      if (id === undefined) return;
      const record = this.#records.peek(id);
      if (record !== undefined && deadlineOf(record) <= now) this.#expire(record);
    }
  }

  #warnOfEviction(max: number): void {
    if (this.#warnedOfEviction) return;
    this.#warnedOfEviction = true;
    this.#logger.warn(
      `The memory store holds its maxSessions of ${max}: the least recently used sessions are being ended. ` +
        'Raise it (store: new MemorySessionStore({ maxSessions })), or set redis.',
    );
  }
}

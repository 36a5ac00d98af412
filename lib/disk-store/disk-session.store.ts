import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import {
  comesAfter,
  SessionArgumentError,
  SessionError,
  SessionStore,
  SessionStoreUnavailableError,
  type CreateResult,
  type DisplacedSession,
  type ExpiredSession,
  type ListPage,
  type ListPosition,
  type ListQuery,
  type LoadedSession,
  type MoveResult,
  type NewSession,
  type SessionChange,
  type SessionFence,
  type SessionRecord,
  type SessionStoreCapabilities,
  type TouchResult,
  type WriteResult,
} from '../index.js';
import { openEnvironment, type Environment } from './disk-environment.js';
import { messageOf } from './disk-errors.js';
import { decodeUser, digits, idOf, KEYS } from './disk-keys.js';
import { joinOpeners } from './disk-openers.js';
import { DiskRecords, entryOf, type StoredFence } from './disk-records.js';

/** Sessions that one transaction changes at most, and entries read between two turns of the event loop. */
const WRITE_BATCH = 200;
const READ_BATCH = 1_000;
/** Unreadable records that are warned of. */
const MAX_WARNED = 1_000;

/** @publicApi */
export interface DiskSessionStoreOptions {
  /**
   * A directory for this store alone, on a local disk; made, for this user only, if it is not there. Relative to the
   * working directory.
   */
  path: string;
  /**
   * Several processes of this machine use the path, each with `shared: true`. Their near caches are off then, because
   * none hears of the others' changes. Without it, whoever opens the path second is refused.
   * @default false
   */
  shared?: boolean;
  /**
   * How long a write may take, in milliseconds; then the caller gets `SessionStoreUnavailableError`.
   * @default 5000
   */
  timeoutMs?: number;
  /** @internal for tests */
  clock?: { wall(): number };
}

type Listener = (id: string, version: number) => void;

/** What one transaction has changed, to be announced when it stands. */
type Announce = Listener;

/**
 * Sessions in a directory of this machine, kept by LMDB (package `lmdb`, to be installed beside this one): for apps of
 * one machine whose sessions survive restarts, without a server.
 *
 * Every change is one transaction, of record and indexes together. It is acknowledged when LMDB has committed it, which
 * includes the flush to disk (fdatasync): kill -9 loses nothing that was acknowledged and never shows half a change; nor
 * does a power cut, as far as the disk keeps what it says it has flushed. Changes made at the same time share a flush.
 * A record that cannot be read, because something else has written to the file, is warned of and counts as absent; until
 * it is swept, destroyed or cleared, only `length` and `countActive` still count it.
 * Times are those of this machine's wall clock: set forward, it ends sessions early by as much; set back, it prolongs
 * them. Not for network file systems, nor for containers on different machines.
 *
 * @publicApi
 */
export class DiskSessionStore extends SessionStore {
  override readonly capabilities: SessionStoreCapabilities;
  readonly #listeners = new Set<Listener>();
  readonly #path: string;
  readonly #shared: boolean;
  readonly #timeoutMs: number;
  readonly #clock: { wall(): number };
  #opening: Promise<void> | undefined;
  #environment: Environment | undefined;
  #records: DiskRecords | undefined;
  #leave: (() => Promise<void>) | undefined;
  readonly #writes = new Set<Promise<unknown>>();
  readonly #logger = new Logger('SessionModule');
  /** Ids of unreadable records that have been warned of. */
  readonly #warned = new Set<string>();

  /** @throws {SessionArgumentError} naming the option, its value and what it may be */
  constructor(options: DiskSessionStoreOptions) {
    super();
    const { path, shared, timeoutMs, clock } = checkOptions(options);
    this.#path = path;
    this.#shared = shared;
    this.#timeoutMs = timeoutMs;
    this.#clock = clock;
    this.capabilities = { versions: true, index: true, aliases: true, exclusive: !shared };
  }

  /**
   * Opens the path.
   *
   * @throws {SessionStoreUnavailableError} when another process has it open, it cannot be written, the file is damaged, or
   * `lmdb` is not installed; the message names the path and what to do
   */
  override open(): Promise<void> {
    return (this.#opening ??= this.#open().catch((error: unknown) => {
      this.#opening = undefined;
      throw error;
    }));
  }

  /** Waits for writes that are under way. Until it is opened again, every method rejects. */
  override async close(): Promise<void> {
    await this.#opening?.catch(() => undefined);
    this.#opening = undefined;
    this.#records = undefined;
    const [environment, leave] = [this.#environment, this.#leave];
    this.#environment = this.#leave = undefined;
    if (environment === undefined) return;
    await this.#inTime('close', Promise.allSettled(this.#writes));
    await this.#inTime('close', leave?.() ?? Promise.resolve());
    await this.#inTime('close', environment.release());
  }

  override onChange(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  create(session: NewSession): Promise<CreateResult> {
    return this.#write('create a session', (records, now, announce): CreateResult => {
      const { id } = session;
      const previous = records.read(id);
      if ((records.live(id, now) ?? records.aliased(id, 'until', now)) !== undefined)
        return { status: 'taken' };
      const displaced = makeRoom(records, session, now, announce);
      if (displaced === null) return { status: 'limit' };
      if (previous !== undefined) records.expire(previous);
      else records.dropUnreadable([id]);
      const record = newRecord(session, records.nextVersion(now), now);
      records.put(record);
      announce(id, record.version);
      return { status: 'created', displaced, record, now };
    });
  }

  async get(id: string): Promise<LoadedSession | null> {
    return this.#readNext('get a session', (records, now) => {
      const record = records.live(id, now) ?? records.aliased(id, 'reads', now);
      return record === undefined ? null : { record, now };
    });
  }

  override async successorOf(id: string): Promise<SessionRecord | null> {
    return this.#readNext('get a session', (records, now) => records.aliased(id, 'until', now) ?? null);
  }

  set({ base, data, keepExpiry, idleTimeout = base.idleTimeout }: SessionChange): Promise<WriteResult> {
    return this.#write('write a session', (records, now, announce): WriteResult => {
      const current = records.live(base.id, now);
      if (current === undefined) return { status: 'gone' };
      if (current.version !== base.version)
        return { status: 'conflict', uncertain: false, record: current, now };
      const lastAccess = keepExpiry ? current.lastAccess : now;
      const version = records.nextVersion(now);
      const record = { ...current, version, lastAccess, idleTimeout, data };
      records.put(record, current);
      announce(record.id, record.version);
      return { status: 'written', record, now };
    });
  }

  async touch(id: string, minInterval: number): Promise<TouchResult | null> {
    const asIs = await this.#readNext('touch a session', (records, now) => {
      const record = records.live(id, now);
      if (record === undefined) return null;
      const { version, lastAccess } = record;
      return now - lastAccess < minInterval ? { version, lastAccess, now } : undefined;
    });
    if (asIs !== undefined) return asIs;
    return this.#write('touch a session', (records, now): TouchResult | null => {
      const record = records.live(id, now);
      if (record === undefined) return null;
      const { version, lastAccess } = record;
      if (now - lastAccess < minInterval) return { version, lastAccess, now };
      records.put({ ...record, lastAccess: now }, record);
      return { version, lastAccess: now, now };
    });
  }

  destroy(id: string): Promise<boolean> {
    return this.#write('end a session', (records, now, announce) => end(records, id, now, announce));
  }

  override async destroyMany(
    ids: readonly string[],
    _userId: string,
    onEnded?: (ids: readonly string[]) => void,
  ): Promise<readonly string[]> {
    const ended: string[] = [];
    for (let start = 0; start < ids.length; start += WRITE_BATCH) {
      const batch = ids.slice(start, start + WRITE_BATCH);
      const live = await this.#write('end sessions', (records, now, announce) =>
        batch.filter((id) => end(records, id, now, announce)),
      );
      onEnded?.(live);
      ended.push(...live);
    }
    return ended;
  }

  override async fence(userId: string, spared: readonly string[]): Promise<SessionFence> {
    const fence = await this.#write('end sessions', (records, now): StoredFence => {
      const ids = records.ofUser(userId).map(({ id }) => id);
      const token = records.nextVersion(now);
      const added = { token, ids, spared, until: now + this.#timeoutMs };
      // Those that are over were left by processes that died, or are too late.
      const others = records.fences(userId).filter(({ until }) => until > now);
      records.putFences(userId, [...others, added]);
      return added;
    });
    const isOwn = ({ token }: StoredFence) => token === fence.token;
    return {
      spared: () =>
        this.#readNext(
          'end sessions',
          (records) => new Set([...spared, ...(records.fences(userId).find(isOwn)?.spared ?? [])]),
        ),
      release: () =>
        this.#write('end sessions', (records) => {
          const others = records.fences(userId).filter((one) => !isOwn(one));
          records.putFences(userId, others);
        }),
    };
  }

  move(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    return this.#write('move a session', (records, now, announce): MoveResult => {
      const current = records.live(base.id, now);
      if (current === undefined) return { status: 'gone' };
      const fences = records.fences(base.userId);
      const holds = ({ ids, spared, until }: StoredFence) =>
        now < until && ids.includes(base.id) && !spared.includes(base.id);
      if (base.userId === next.userId && fences.some(holds)) return { status: 'gone' };
      if (current.version !== base.version)
        return { status: 'conflict', uncertain: false, record: current, now };
      const displaced = makeRoom(records, next, now, announce, base.id);
      if (displaced === null) return { status: 'limit' };
      end(records, base.id, now, announce);
      const fresh = newRecord(next, records.nextVersion(now), now);
      const stays = current.userId === next.userId;
      const { createdAt, absoluteDeadline } = current;
      const inherited = next.restartsAbsolute === true ? { createdAt } : { createdAt, absoluteDeadline };
      const record = stays ? { ...fresh, ...inherited } : fresh;
      const spares = ({ spared }: StoredFence) => spared.includes(base.id);
      if (stays && fences.some(spares)) {
        const spare = (fence: StoredFence) =>
          spares(fence) ? { ...fence, spared: [...fence.spared, next.id] } : fence;
        records.putFences(base.userId!, fences.map(spare));
      }
      records.dropUnreadable([next.id]);
      records.put(record, records.read(next.id));
      if (stays && next.alias !== undefined) {
        const { readMs, keepMs } = next.alias;
        records.putAlias(base.id, { id: next.id, reads: now + readMs, until: now + keepMs });
      }
      announce(next.id, record.version);
      return { status: 'moved', displaced, record, now };
    });
  }

  async *all(): AsyncGenerator<SessionRecord> {
    for (let last = ''; ;) {
      const page = this.#read('list sessions', (records) => records.after(last, READ_BATCH));
      for (const record of page.records) if (entryOf(record).deadline > this.#clock.wall()) yield record;
      if (page.last === undefined) return;
      last = page.last;
      await nextTurn();
    }
  }

  async length(): Promise<number> {
    return this.#readNext('count sessions', (records, now) => records.count(now));
  }

  async clear(
    onEnded?: (sessions: readonly { readonly id: string; readonly userId: string | null }[]) => void,
  ): Promise<void> {
    const begin = await this.now();
    const forget = () =>
      this.#write('end all sessions', (records) => records.dropAliases(Infinity, WRITE_BATCH));
    while ((await forget()) === WRITE_BATCH) await nextTurn();
    // Again and again: what was moved meanwhile may stand where the pass had been already.
    for (let found = true; found;) {
      found = false;
      for (let last = '', isLast = false; !isLast;) {
        const ended = await this.#write('end all sessions', (records, now, announce) => {
          const page = records.after(last, WRITE_BATCH);
          isLast = page.last === undefined;
          last = page.last ?? last;
          for (const id of records.dropUnreadable(page.unreadable)) announce(id, Infinity);
          // What has expired is left for the sweep to tell.
          return page.records.filter(
            ({ id, createdAt }) => createdAt <= begin && end(records, id, now, announce),
          );
        });
        if (ended.length > 0) {
          found = true;
          onEnded?.(ended.map(({ id, userId }) => ({ id, userId })));
        }
        await nextTurn();
      }
    }
  }

  override async now(): Promise<number> {
    return this.#clock.wall();
  }

  override async countActive(since: number): Promise<number> {
    let count = 0;
    for await (const page of this.#entries(KEYS.activity(since, ''), 'a;', false)) {
      const now = this.#clock.wall();
      for (const { value } of page) if (Number(value.slice(0, 16)) > now) count++;
    }
    return count;
  }

  override async list(query: ListQuery): Promise<ListPage<SessionRecord>> {
    const { after, limit } = query;
    const found: SessionRecord[] = [];
    const [start, end] = boundsOf(query);
    search: for await (const page of this.#entries(start, end, true, limit + 1)) {
      for (const { key } of page) {
        const entry = { lastAccess: Number(key.slice(2, 18)), id: idOf(key) };
        if (after !== undefined && !comesAfter(entry, after)) continue;
        const record = this.#read('list sessions', (records, now) => records.live(entry.id, now));
        // Used since its entry was read: it stands further in front now.
        if (record?.lastAccess === entry.lastAccess) found.push(record);
        if (found.length > limit) break search;
      }
    }
    return pageOf(found, limit, this.#clock.wall());
  }

  override async listUsers(query: ListQuery): Promise<ListPage<ListPosition>> {
    const { after, limit } = query;
    const found: ListPosition[] = [];
    // From the first session of that millisecond on: `after.id` names a user.
    const [start, end] = boundsOf({ ...query, after: after && { ...after, id: '\uffff' } });
    /** Users who were active last in the millisecond that is being read: their order is not that of their sessions. */
    let atOnce = new Map<string, ListPosition>();
    let moment = Infinity;
    const flush = () => {
      const group = [...atOnce.values()].filter((user) => after === undefined || comesAfter(user, after));
      found.push(...group.sort((a, b) => (comesAfter(a, b) ? 1 : -1)));
      atOnce = new Map();
    };
    search: for await (const page of this.#entries(start, end, true)) {
      for (const { key, value } of page) {
        const lastAccess = Number(key.slice(2, 18));
        if (lastAccess !== moment) {
          flush();
          if (found.length > limit) break search;
          moment = lastAccess;
        }
        const id = decodeUser(value.slice(17));
        if (id !== null && !atOnce.has(id) && this.#lastActive(id) === lastAccess)
          atOnce.set(id, { id, lastAccess });
      }
    }
    flush();
    return pageOf(found, limit, this.#clock.wall());
  }

  /**
   * In transactions of a bounded number of sessions; one that has been removed is told by the process that did it, and no
   * claim is needed for that.
   */
  override async sweep(
    onExpired: (session: ExpiredSession) => void,
    _claimMs: number,
    isStopped: () => boolean,
  ): Promise<void> {
    while (!isStopped() && this.#read('sweep', (records, now) => records.isSweepDue(now))) {
      await this.#write(
        'sweep',
        (records, now, announce) => {
          const told = records.takeExpired(WRITE_BATCH);
          const due = records.due(now, WRITE_BATCH).map((entry): ExpiredSession => {
            const { id, userId } = entry;
            const metadata = metadataOf(records, id);
            records.drop(entry);
            announce(id, Infinity);
            return { id, userId, metadata };
          });
          records.dropAliases(now + 1, WRITE_BATCH);
          return [...told, ...due];
        },
        // Even if this took longer than the caller waits: nobody else will tell.
        (expired) => {
          for (const session of expired) onExpired(session);
        },
      );
      await nextTurn();
    }
  }

  override async userSessions(userId: string): Promise<{ records: SessionRecord[]; now: number }> {
    return this.#readNext('list sessions', (records, now) => {
      const found = records.ofUser(userId).flatMap(({ id }) => records.live(id, now) ?? []);
      found.sort((a, b) => (comesAfter(a, b) ? 1 : -1));
      return { records: found, now };
    });
  }

  async #open(): Promise<void> {
    const environment = await openEnvironment(this.#path);
    try {
      this.#leave = await joinOpeners(environment.db, environment.directory, this.#shared);
    } catch (error) {
      await environment.release();
      throw error;
    }
    this.#environment = environment;
    this.#records = new DiskRecords(environment.db, (id) => this.#warnOf(id));
  }

  #warnOf(id: string): void {
    if (this.#warned.has(id) || this.#warned.size >= MAX_WARNED) return;
    this.#warned.add(id);
    this.#logger.warn(
      `The record of session ${id} in ${this.#path} cannot be read and counts as absent: ` +
        'something else than this store has written to the file, or the disk is failing.',
    );
  }

  /** When the user was last active in a session that lives; -1 if there is none. */
  #lastActive(userId: string): number {
    return this.#read('list users', (records, now) => {
      const live = records.ofUser(userId).filter(({ deadline }) => deadline > now);
      live.sort((a, b) => b.lastAccess - a.lastAccess);
      return live.find(({ id }) => records.read(id) !== undefined)?.lastAccess ?? -1;
    });
  }

  /** Entries between two keys in parts; no state of the file is held from one to the next. */
  async *#entries(
    start: string,
    end: string,
    reverse: boolean,
    first = READ_BATCH,
  ): AsyncGenerator<{ key: string; value: string }[]> {
    let from = start;
    for (let limit = Math.min(first, READ_BATCH); ; limit = READ_BATCH) {
      const page = this.#read('list sessions', ({ db }) =>
        Array.from(db.getRange({ start: from, end, reverse, limit })),
      );
      yield page[0]?.key === from && from !== start ? page.slice(1) : page;
      if (page.length < limit) return;
      from = page.at(-1)!.key;
      await nextTurn();
    }
  }

  /** In the next turn of the event loop: whoever reads again and again must not keep writes from being finished. */
  async #readNext<R>(action: string, read: (records: DiskRecords, now: number) => R): Promise<R> {
    await nextTurn();
    return this.#read(action, read);
  }

  /** What is read in one go is of one state of the file: the latest that any process has committed. */
  #read<R>(action: string, read: (records: DiskRecords, now: number) => R): R {
    const records = this.#openRecords(action);
    try {
      records.db.resetReadTxn();
      return read(records, this.#clock.wall());
    } catch (cause) {
      throw new SessionStoreUnavailableError(action, `${this.#path}: ${messageOf(cause)}`, false, { cause });
    }
  }

  /**
   * One transaction: all of the change or nothing.
   *
   * @param told called when it stands, also if the caller did not wait for so long
   */
  async #write<R>(
    action: string,
    change: (records: DiskRecords, now: number, announce: Announce) => R,
    told?: (result: R) => void,
  ): Promise<R> {
    const records = this.#openRecords(action);
    const announced: Parameters<Announce>[] = [];
    const writing = this.#commit(action, records, () =>
      change(records, this.#clock.wall(), (...changed) => announced.push(changed)),
    ).then((result) => {
      for (const changed of announced) for (const listener of this.#listeners) listener(...changed);
      told?.(result);
      return result;
    });
    this.#writes.add(writing);
    void writing.catch(() => undefined).finally(() => this.#writes.delete(writing));
    return this.#inTime(action, writing);
  }

  /** A child transaction: what throws half way is undone, and nothing else of the batch that lmdb commits at once. */
  async #commit<R>(action: string, { db }: DiskRecords, change: () => R): Promise<R> {
    try {
      return await db.childTransaction(change);
    } catch (error) {
      if (error instanceof SessionError) throw error;
      // lmdb tells the reason in a promise of its own, whose rejection must not go unheard.
      const reason = (error as { commitError?: Promise<never> }).commitError;
      const cause = await (reason ?? Promise.reject(error as Error)).catch((e: unknown) => e);
      throw new SessionStoreUnavailableError(action, `${this.#path}: ${messageOf(cause)}`, true, { cause });
    }
  }

  async #inTime<R>(action: string, work: Promise<R>): Promise<R> {
    const abort = new AbortController();
    const tooLate = delay(this.#timeoutMs, undefined, { signal: abort.signal }).then(() => {
      const detail = `${this.#path}: no answer within ${this.#timeoutMs} ms`;
      throw new SessionStoreUnavailableError(action, detail, true);
    });
    tooLate.catch(() => undefined);
    try {
      return await Promise.race([work, tooLate]);
    } finally {
      abort.abort();
    }
  }

  #openRecords(action: string): DiskRecords {
    if (this.#records !== undefined) return this.#records;
    throw new SessionStoreUnavailableError(action, `${this.#path} is not open`, false);
  }
}

/** Ends a live session; true if there was one. What has expired is left for the sweep to tell; what is unreadable goes. */
function end(records: DiskRecords, id: string, now: number, announce: Announce): boolean {
  const record = records.live(id, now);
  if (record === undefined) {
    if (records.dropUnreadable([id]).length > 0) announce(id, Infinity);
    return false;
  }
  records.drop(entryOf(record));
  announce(id, Infinity);
  return true;
}

/**
 * What of the user's has to go so that one more may come; null where it may not.
 *
 * @param leaving goes anyway
 */
function makeRoom(
  records: DiskRecords,
  { userId, limit }: NewSession,
  now: number,
  announce: Announce,
  leaving?: string,
): DisplacedSession[] | null {
  if (limit === undefined || userId === null) return [];
  const listed = records.ofUser(userId).filter(({ id, deadline }) => id !== leaving && deadline > now);
  if (listed.length < limit.max) return [];
  const live = listed.filter(({ id }) => records.read(id) !== undefined);
  live.sort((a, b) => (comesAfter(a, b) ? -1 : 1));
  const excess = live.slice(0, Math.max(0, live.length - limit.max + 1));
  if (excess.length > 0 && limit.policy === 'reject') return null;
  return excess.map(({ id }) => {
    const metadata = metadataOf(records, id);
    end(records, id, now, announce);
    return { id, reason: 'evicted', metadata };
  });
}

function newRecord(session: NewSession, version: number, now: number): SessionRecord {
  const { id, userId, idleTimeout, absoluteTimeout, metadata, data } = session;
  return {
    id,
    userId,
    version,
    createdAt: now,
    lastAccess: now,
    idleTimeout,
    absoluteDeadline: absoluteTimeout === 0 ? 0 : now + absoluteTimeout,
    metadata,
    data,
  };
}

function metadataOf(records: DiskRecords, id: string): SessionRecord['metadata'] {
  return records.read(id)?.metadata ?? {};
}

/** Keys of the activity index between which a list stands, the last active first. */
function boundsOf({ after, activeSince }: ListQuery): [string, string] {
  const start = after === undefined ? 'a;' : KEYS.activity(after.lastAccess, after.id);
  return [start, `a:${digits(activeSince ?? 0)}:`];
}

/** @param found one more than asked for, if there are more */
function pageOf<E extends ListPosition>(found: readonly E[], limit: number, now: number): ListPage<E> {
  const entries = found.slice(0, limit);
  const last = entries.at(-1);
  const next =
    last === undefined || found.length <= limit ? null : { lastAccess: last.lastAccess, id: last.id };
  return { entries, next, now };
}

function checkOptions(options: DiskSessionStoreOptions): Required<DiskSessionStoreOptions> {
  const { path, shared = false, timeoutMs = 5_000, clock = { wall: () => Date.now() }, ...rest } = options;
  for (const name of Object.keys(rest))
    throw new SessionArgumentError(name, 'is no option of DiskSessionStore: path, shared, timeoutMs.');
  if (typeof path !== 'string' || path === '' || path.includes('\0'))
    throw new SessionArgumentError(
      'path',
      `must be the path of a directory, such as './sessions'; got ${JSON.stringify(path) ?? typeof path}.`,
    );
  if (typeof shared !== 'boolean')
    throw new SessionArgumentError('shared', `must be true or false; got ${JSON.stringify(shared)}.`);
  if (!Number.isInteger(timeoutMs) || timeoutMs < 1 || timeoutMs > 0x7fff_ffff)
    throw new SessionArgumentError(
      'timeoutMs',
      `must be a whole number of milliseconds from 1 to ${0x7fff_ffff}; got ${String(timeoutMs)}.`,
    );
  return { path, shared, timeoutMs, clock };
}

import type { RootDatabase } from 'lmdb';
import { deadlineOf, type ExpiredSession, type SessionRecord } from '../index.js';
import { decodeUser, digits, encodeUser, idOf, KEYS } from './disk-keys.js';

/** Text under keys: what lmdb is opened as. */
export type Database = RootDatabase<string, string>;

/** These sessions of a user keep their ids until then, but for those spared. */
export interface StoredFence {
  /** Whose it is: a user may have several at once. */
  readonly token: number;
  readonly ids: readonly string[];
  readonly spared: readonly string[];
  readonly until: number;
}

/** Where the old id of a moved session leads; `reads` and `until` are epoch milliseconds. */
export interface StoredAlias {
  readonly id: string;
  /** Until then `get` follows it. */
  readonly reads: number;
  /** Until then it is known. */
  readonly until: number;
}

/** Where a session stands in the indexes. */
export interface IndexEntry {
  readonly id: string;
  readonly userId: string | null;
  readonly lastAccess: number;
  /** Infinity = never. */
  readonly deadline: number;
}

/** A part of all records, in the order of their ids. */
export interface RecordPage {
  readonly records: readonly SessionRecord[];
  /** Ids of this part whose record cannot be read. */
  readonly unreadable: readonly string[];
  /** The next part begins behind it; undefined: this is the last. */
  readonly last: string | undefined;
}

/**
 * Records and their indexes. What changes something must be called inside one write transaction, so that a record and
 * its entries come and go together; what reads sees one state of the file as long as it does not wait.
 */
export class DiskRecords {
  /** @param onUnreadable called whenever something else than a record stands where one should */
  constructor(
    readonly db: Database,
    readonly onUnreadable: (id: string) => void,
  ) {}

  /** The record, expired or not. One that cannot be read counts as absent: it must not be in the way of others. */
  read(id: string): SessionRecord | undefined {
    const text = this.db.get(KEYS.record(id));
    if (text === undefined) return undefined;
    const record = parse<SessionRecord>(text);
    if (isRecordOf(id, record)) return record;
    this.onUnreadable(id);
    return undefined;
  }

  live(id: string, now: number): SessionRecord | undefined {
    const record = this.read(id);
    return record !== undefined && deadlineOf(record) > now ? record : undefined;
  }

  /** The live session that an old id leads to, as long as that is known, or as long as reads follow it. */
  aliased(id: string, as: 'reads' | 'until', now: number): SessionRecord | undefined {
    const text = this.db.get(KEYS.alias(id));
    const alias = text === undefined ? undefined : parse<StoredAlias>(text);
    return alias !== undefined && alias[as] > now ? this.live(alias.id, now) : undefined;
  }

  /** @param previous what is there under this id so far */
  put(record: SessionRecord, previous?: SessionRecord): void {
    if (previous !== undefined) this.#delist(entryOf(previous));
    const { id, userId, lastAccess, deadline } = entryOf(record);
    const user = encodeUser(userId);
    this.#set(KEYS.record(id), JSON.stringify(record));
    this.#set(KEYS.activity(lastAccess, id), `${digits(deadline)}:${user}`);
    this.#set(KEYS.deadline(deadline, id), `${digits(lastAccess)}:${user}`);
    if (userId !== null) this.#set(KEYS.user(user, id), `${digits(lastAccess)}:${digits(deadline)}`);
  }

  drop(entry: IndexEntry): void {
    this.#remove(KEYS.record(entry.id));
    this.#delist(entry);
  }

  /**
   * Removes, with their entries, those of these records that cannot be read, and tells which. Whose they were and when
   * they were used only the indexes know: this looks through one of them.
   */
  dropUnreadable(ids: readonly string[]): string[] {
    const unreadable = ids.filter((id) => this.db.doesExist(KEYS.record(id)) && this.read(id) === undefined);
    const wanted = new Set(unreadable);
    if (wanted.size === 0) return [];
    const entries: IndexEntry[] = [];
    for (const { key, value } of this.db.getRange({ start: 'd:', end: 'd;' }))
      if (wanted.has(idOf(key))) entries.push(dueEntry(key, value));
    for (const entry of entries) this.#delist(entry);
    for (const id of unreadable) this.#remove(KEYS.record(id));
    return unreadable;
  }

  /** Removes a record whose time is up, for the next sweep to tell. */
  expire(record: SessionRecord): void {
    this.drop(entryOf(record));
    const { id, userId, metadata, version } = record;
    this.#set(KEYS.expired(version), JSON.stringify({ id, userId, metadata } satisfies ExpiredSession));
  }

  /** Sessions that wait to be told, at most so many; they wait no more. */
  takeExpired(limit: number): ExpiredSession[] {
    return this.#range('e:', 'e;', limit).flatMap(({ key, value }) => {
      this.#remove(key);
      return parse<ExpiredSession>(value) ?? [];
    });
  }

  /** What the time of is up, at most so many. */
  due(now: number, limit: number): IndexEntry[] {
    return this.#range('d:', KEYS.deadline(now + 1, ''), limit).map(({ key, value }) => dueEntry(key, value));
  }

  /** True if there is anything that a sweep would do. */
  isSweepDue(now: number): boolean {
    return (
      this.#range('e:', 'e;', 1).length > 0 ||
      this.#range('d:', KEYS.deadline(now + 1, ''), 1).length > 0 ||
      this.#range('x:', KEYS.aliasEnd(now + 1, ''), 1).length > 0
    );
  }

  /** Number of live sessions, by the index. */
  count(now: number): number {
    return this.db.getKeysCount({ start: KEYS.deadline(now + 1, ''), end: 'd;' });
  }

  /** All sessions of one user, expired or not. */
  ofUser(userId: string): IndexEntry[] {
    const prefix = `u:${encodeUser(userId)}`;
    return this.#range(`${prefix}:`, `${prefix};`).map(({ key, value }) => {
      const [lastAccess, deadline] = value.split(':') as [string, string];
      return { id: idOf(key), userId, lastAccess: Number(lastAccess), deadline: Number(deadline) };
    });
  }

  /** What keeps sessions of a user from getting new ids; some may be over. */
  fences(userId: string | null): readonly StoredFence[] {
    const text = userId === null ? undefined : this.db.get(KEYS.fence(encodeUser(userId)));
    const fences = text === undefined ? undefined : parse<StoredFence[]>(text);
    return Array.isArray(fences) ? fences : [];
  }

  putFences(userId: string, fences: readonly StoredFence[]): void {
    const key = KEYS.fence(encodeUser(userId));
    if (fences.length > 0) this.#set(key, JSON.stringify(fences));
    else this.#remove(key);
  }

  putAlias(oldId: string, alias: StoredAlias): void {
    this.#set(KEYS.alias(oldId), JSON.stringify(alias));
    this.#set(KEYS.aliasEnd(alias.until, oldId), '1');
  }

  /** Forgets aliases that ended before, at most so many, and tells how many it were. */
  dropAliases(before: number, limit: number): number {
    const ended = this.#range('x:', KEYS.aliasEnd(before, ''), limit);
    for (const { key } of ended) {
      this.#remove(key);
      const id = idOf(key);
      const text = this.db.get(KEYS.alias(id));
      // An id that was moved twice has its later alias under another end.
      if (text !== undefined && KEYS.aliasEnd(parse<StoredAlias>(text)?.until ?? 0, id) === key)
        this.#remove(KEYS.alias(id));
    }
    return ended.length;
  }

  /** Never the same twice, whatever the clock does and however often the app restarts. */
  nextVersion(now: number): number {
    const next = Math.max(Number(this.db.get(KEYS.version) ?? 0) + 1, now * 1000);
    this.#set(KEYS.version, String(next));
    return next;
  }

  /** What stands behind this id, expired or not; at most so many. */
  after(id: string, limit: number): RecordPage {
    const ids = this.#range(KEYS.record(id), 'r;', limit + 1).map(({ key }) => idAfter(key));
    const behind = ids.filter((one) => one !== id);
    const records = behind.flatMap((one) => this.read(one) ?? []);
    const read = new Set(records.map((record) => record.id));
    const unreadable = behind.filter((one) => !read.has(one));
    return { records, unreadable, last: behind.length < limit ? undefined : behind.at(-1) };
  }

  #delist({ id, userId, lastAccess, deadline }: IndexEntry): void {
    this.#remove(KEYS.activity(lastAccess, id));
    this.#remove(KEYS.deadline(deadline, id));
    if (userId !== null) this.#remove(KEYS.user(encodeUser(userId), id));
  }

  #range(start: string, end: string, limit?: number): { key: string; value: string }[] {
    return Array.from(this.db.getRange({ start, end, ...(limit !== undefined && { limit }) }));
  }

  /** Inside a transaction lmdb writes at once; the promise is for elsewhere. */
  #set(key: string, value: string): void {
    void this.db.put(key, value);
  }

  #remove(key: string): void {
    void this.db.remove(key);
  }
}

export function entryOf(record: SessionRecord): IndexEntry {
  const { id, userId, lastAccess } = record;
  return { id, userId, lastAccess, deadline: deadlineOf(record) };
}

/** What an entry of the index of deadlines says. */
function dueEntry(key: string, value: string): IndexEntry {
  const [lastAccess, user] = value.split(':') as [string, string];
  const deadline = Number(key.slice(2, 18));
  return { id: idOf(key), userId: decodeUser(user), lastAccess: Number(lastAccess), deadline };
}

/** The id in the key of a record. */
function idAfter(key: string): string {
  return key.slice(2);
}

const NUMBERS = ['version', 'createdAt', 'lastAccess', 'idleTimeout', 'absoluteDeadline'] as const;

function isRecordOf(id: string, record: Partial<SessionRecord> | undefined): record is SessionRecord {
  return (
    record?.id === id &&
    (record.userId === null || typeof record.userId === 'string') &&
    NUMBERS.every((name) => Number.isFinite(record[name])) &&
    typeof record.metadata === 'object' &&
    record.metadata !== null &&
    typeof record.data === 'string'
  );
}

/** The object or array that the text stands for; undefined if it is none, as in a damaged file. */
function parse<T extends object>(text: string): T | undefined {
  try {
    const value = JSON.parse(text) as unknown;
    return typeof value === 'object' && value !== null ? (value as T) : undefined;
  } catch {
    return undefined; // the caller says what that means
  }
}

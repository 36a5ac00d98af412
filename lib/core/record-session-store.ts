import { setTimeout as delay } from 'node:timers/promises';
import { SessionArgumentError } from '../errors/caller.errors.js';
import { SessionError } from '../errors/session.error.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import { SYSTEM_CLOCK, type Clock } from './clock.js';
import { KeyedQueue } from './keyed-queue.js';
import { deadlineOf, type SessionRecord } from './session-record.interface.js';
import {
  SessionStore,
  type CreateResult,
  type LoadedSession,
  type MoveResult,
  type NewSession,
  type SessionChange,
  type TouchResult,
  type WriteResult,
} from './session-store.js';

/** @publicApi */
export interface RecordSessionStoreOptions {
  /**
   * How long one operation of what lies beneath may take, in milliseconds; then the caller gets
   * `SessionStoreUnavailableError`.
   * @default 5000
   */
  timeoutMs?: number;
  /** @internal for tests */
  clock?: Clock;
}

/**
 * A store over anything that keeps whole records by key: a table, a directory, another package's store. A subclass says
 * how one record is read, written and removed, and how all are gone through; deadlines, versions and the order of writes
 * are seen to here.
 *
 * Writes of one session take turns inside this process, so that none is lost there. Of several processes the last writer
 * wins, which is why `capabilities` promise nothing; a subclass that can do more says so, and overrides what does it.
 * Times are those of this process's clock.
 *
 * @publicApi
 */
export abstract class RecordSessionStore extends SessionStore {
  readonly #queue: KeyedQueue;
  readonly #timeoutMs: number;
  readonly #clock: Clock;
  #lastVersion = 0;

  constructor(options: RecordSessionStoreOptions = {}) {
    super();
    const { timeoutMs = 5_000, clock = SYSTEM_CLOCK } = options;
    if (!Number.isInteger(timeoutMs) || timeoutMs < 1)
      throw new SessionArgumentError(
        'timeoutMs',
        `must be a whole number of milliseconds, 1 or more; got ${String(timeoutMs)}.`,
      );
    this.#timeoutMs = timeoutMs;
    this.#clock = clock;
    this.#queue = new KeyedQueue(
      timeoutMs,
      () => new SessionStoreUnavailableError('write a session', 'writes before it did not end', false),
    );
  }

  /** The record under this id, expired or not; null if there is none. */
  protected abstract readRecord(id: string): Promise<SessionRecord | null>;

  /**
   * Keeps the record under `record.id`, in place of what is there.
   *
   * @param deadline epoch milliseconds from which it may be forgotten; Infinity = never
   */
  protected abstract writeRecord(record: SessionRecord, deadline: number): Promise<void>;

  /** Forgets the record; one that is not there is no error. */
  protected abstract removeRecord(id: string): Promise<void>;

  /** All records, expired or not, in no order. Those that come or go meanwhile may be missed. */
  protected abstract records(): AsyncIterable<SessionRecord>;

  create(session: NewSession): Promise<CreateResult> {
    return this.#queue.run(session.id, async () => {
      if ((await this.#live(session.id)) !== null) return { status: 'taken' };
      return { status: 'created', ...(await this.#add(session)) };
    });
  }

  async get(id: string): Promise<LoadedSession | null> {
    const record = await this.#live(id);
    return record && { record, now: this.#clock.wall() };
  }

  set({ base, data, keepExpiry, idleTimeout = base.idleTimeout }: SessionChange): Promise<WriteResult> {
    return this.#queue.run(base.id, async () => {
      const current = await this.#live(base.id);
      const now = this.#clock.wall();
      if (current === null) return { status: 'gone' };
      if (current.version !== base.version)
        return { status: 'conflict', uncertain: false, record: current, now };
      const lastAccess = keepExpiry ? current.lastAccess : now;
      const record = {
        ...current,
        version: this.#nextVersion(current.version),
        lastAccess,
        idleTimeout,
        data,
      };
      await this.#write(record);
      return { status: 'written', record, now };
    });
  }

  touch(id: string, minInterval: number): Promise<TouchResult | null> {
    return this.#queue.run(id, async () => {
      const record = await this.#live(id);
      const now = this.#clock.wall();
      if (record === null) return null;
      const { version } = record;
      if (now - record.lastAccess < minInterval) return { version, lastAccess: record.lastAccess, now };
      await this.#write({ ...record, lastAccess: now });
      return { version, lastAccess: now, now };
    });
  }

  destroy(id: string): Promise<boolean> {
    return this.#queue.run(id, async () => {
      const wasLive = (await this.#live(id)) !== null;
      await this.#remove(id);
      return wasLive;
    });
  }

  /** Two steps: a crash between them costs the session, and never leaves two. */
  move(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    return this.#queue.run(base.id, async () => {
      const current = await this.#live(base.id);
      const now = this.#clock.wall();
      if (current === null) return { status: 'gone' };
      if (current.version !== base.version)
        return { status: 'conflict', uncertain: false, record: current, now };
      await this.#remove(base.id);
      const inherited = base.userId === next.userId ? inheritedFrom(current, next) : {};
      return { status: 'moved', ...(await this.#add(next, inherited)) };
    });
  }

  async *all(): AsyncGenerator<SessionRecord> {
    for await (const record of this.#answers()) if (deadlineOf(record) > this.#clock.wall()) yield record;
  }

  async length(): Promise<number> {
    let count = 0;
    for await (const _ of this.all()) count++;
    return count;
  }

  async clear(
    onEnded?: (sessions: readonly { readonly id: string; readonly userId: string | null }[]) => void,
  ): Promise<void> {
    for await (const { id, userId } of this.#answers())
      if (await this.destroy(id)) onEnded?.([{ id, userId }]);
  }

  override async now(): Promise<number> {
    return this.#clock.wall();
  }

  async #live(id: string): Promise<SessionRecord | null> {
    const record = await this.#answer('get a session', false, () => this.readRecord(id));
    return record !== null && deadlineOf(record) > this.#clock.wall() ? record : null;
  }

  async #add(session: NewSession, inherited: Partial<SessionRecord> = {}): Promise<LoadedSession> {
    const { id, userId, idleTimeout, absoluteTimeout, metadata, data } = session;
    const now = this.#clock.wall();
    const record: SessionRecord = {
      id,
      userId,
      version: this.#nextVersion(0),
      createdAt: now,
      lastAccess: now,
      idleTimeout,
      absoluteDeadline: absoluteTimeout === 0 ? 0 : now + absoluteTimeout,
      metadata,
      data,
      ...inherited,
    };
    await this.#write(record);
    return { record, now };
  }

  #write(record: SessionRecord): Promise<void> {
    return this.#answer('write a session', true, () => this.writeRecord(record, deadlineOf(record)));
  }

  #remove(id: string): Promise<void> {
    return this.#answer('end a session', true, () => this.removeRecord(id));
  }

  async *#answers(): AsyncGenerator<SessionRecord> {
    const records = this.records()[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await this.#answer('list sessions', false, () => records.next());
        if (next.done === true) return;
        yield next.value;
      }
    } finally {
      await records.return?.();
    }
  }

  /** What lies beneath may fail in any way, and hang: whoever asks learns only that the store did not answer. */
  async #answer<R>(action: string, isWrite: boolean, ask: () => Promise<R>): Promise<R> {
    const abort = new AbortController();
    const tooLate = delay(this.#timeoutMs, undefined, { signal: abort.signal }).then(() => {
      throw new SessionStoreUnavailableError(action, `no answer within ${this.#timeoutMs} ms`, isWrite);
    });
    tooLate.catch(() => undefined);
    try {
      return await Promise.race([ask(), tooLate]);
    } catch (cause) {
      if (cause instanceof SessionError) throw cause;
      throw new SessionStoreUnavailableError(action, 'the store beneath it failed', isWrite, { cause });
    } finally {
      abort.abort();
    }
  }

  /** Never the same twice, so that a re-created id is not taken for its former self. */
  #nextVersion(current: number): number {
    return (this.#lastVersion = Math.max(this.#lastVersion, current, this.#clock.wall() * 1000 - 1) + 1);
  }
}

function inheritedFrom(current: SessionRecord, next: NewSession): Partial<SessionRecord> {
  const { createdAt, absoluteDeadline } = current;
  return next.restartsAbsolute === true ? { createdAt } : { createdAt, absoluteDeadline };
}

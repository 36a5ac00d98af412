import { SessionArgumentError } from '../errors/caller.errors.js';
import { SessionError } from '../errors/session.error.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import { SYSTEM_CLOCK, type Clock } from './clock.js';
import { KeyedQueue } from './keyed-queue.js';
import { deadlineOf, type SessionRecord } from './session-record.interface.js';
import {
  SessionStore,
  type CreateResult,
  type ExpiredSession,
  type LoadedSession,
  type MoveResult,
  type NewSession,
  type SessionChange,
  type TouchResult,
  type WriteResult,
} from './session-store.js';

/** How many sessions `clear` ends at the same time. */
const CLEAR_BATCH = 50;

/** An hour: what is not there by then is not coming. */
const MAX_TIMEOUT_MS = 3_600_000;

/** @publicApi */
export interface RecordSessionStoreOptions {
  /**
   * How long one operation of what lies beneath may take, in milliseconds; then the caller gets
   * `SessionStoreUnavailableError`.
   * @default 5000
   */
  timeoutMs?: number;
  /** @internal for tests */
  clock?: Pick<Clock, 'wall'>;
}

/**
 * A store over anything that keeps whole records by key: a table, a directory, another package's store. A subclass says
 * how one record is read, written and removed, and how all are gone through; deadlines, versions and the order of writes
 * are seen to here.
 *
 * Writes of one session take turns inside this process, so that none is lost there; one that hangs keeps those behind it
 * from being written, until it ends. Of several processes the last writer wins, which is why `capabilities` promise nothing; a subclass that can do more says so, and overrides what does it.
 * Times are those of this process's wall clock: set forward, it ends sessions early by as much; set back, it prolongs them.
 *
 * @publicApi
 */
export abstract class RecordSessionStore extends SessionStore {
  readonly #queue: KeyedQueue;
  readonly #timeoutMs: number;
  readonly #clock: Pick<Clock, 'wall'>;
  /** Writes whose callers have been told that there was no answer, by id. */
  readonly #late = new Map<string, Promise<unknown>>();
  #lastVersion = 0;

  constructor(options: RecordSessionStoreOptions = {}) {
    super();
    const { timeoutMs = 5_000, clock = SYSTEM_CLOCK } = options;
    if (!Number.isInteger(timeoutMs) || timeoutMs < 1 || timeoutMs > MAX_TIMEOUT_MS)
      throw new SessionArgumentError(
        'timeoutMs',
        `must be a whole number of milliseconds from 1 to ${MAX_TIMEOUT_MS}; got ${String(timeoutMs)}.`,
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
    return this.#inTurn(session.id, async () => {
      if ((await this.#live(session.id)) !== null) return { status: 'taken' };
      return { status: 'created', ...(await this.#add(session)) };
    });
  }

  async get(id: string): Promise<LoadedSession | null> {
    const record = await this.#live(id);
    return record && { record, now: this.#clock.wall() };
  }

  set({ base, data, keepExpiry, idleTimeout = base.idleTimeout }: SessionChange): Promise<WriteResult> {
    return this.#inTurn(base.id, async () => {
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
    return this.#inTurn(id, async () => {
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
    return this.#inTurn(id, async () => {
      const wasLive = (await this.#live(id)) !== null;
      await this.#remove(id);
      return wasLive;
    });
  }

  /** Two steps: a crash between them costs the session, and never leaves two. */
  move(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    return this.#inTurn(base.id, async () => {
      const current = await this.#live(base.id);
      const now = this.#clock.wall();
      if (current === null) return { status: 'gone' };
      if (current.version !== base.version)
        return { status: 'conflict', uncertain: false, record: current, now };
      await this.#remove(base.id);
      const inherited = base.userId === next.userId ? inheritedFrom(current, next) : {};
      // In the new id's own queue too: should it come late, whoever ends that session waits for it.
      return this.#inTurn(next.id, async () => ({
        status: 'moved',
        ...(await this.#add(next, inherited)),
      }));
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
    let batch: SessionRecord[] = [];
    const endBatch = async (): Promise<void> => {
      const wereLive = await Promise.all(batch.map(({ id }) => this.destroy(id)));
      const ended = batch.filter((_, index) => wereLive[index]);
      batch = [];
      if (ended.length > 0) onEnded?.(ended.map(({ id, userId }) => ({ id, userId })));
    };
    for await (const record of this.#answers()) {
      batch.push(record);
      if (batch.length === CLEAR_BATCH) await endBatch();
    }
    await endBatch();
  }

  override async now(): Promise<number> {
    return this.#clock.wall();
  }

  /**
   * Goes through all records and removes those whose time is up: for the `sweep` of a subclass over something that
   * forgets nothing by itself. Of several processes each tells of what it finds.
   */
  protected async removeExpired(
    onExpired: (session: ExpiredSession) => void,
    isStopped: () => boolean,
  ): Promise<void> {
    for await (const found of this.#answers()) {
      if (isStopped()) return;
      if (deadlineOf(found) > this.#clock.wall()) continue;
      const { id } = found;
      await this.#inTurn(id, async () => {
        const record = await this.#read(id);
        if (record === null || deadlineOf(record) > this.#clock.wall()) return;
        await this.#remove(id);
        onExpired({ id, userId: record.userId, metadata: record.metadata });
      });
    }
  }

  /**
   * What is given up on may still be written, later; so it keeps its place, and nothing that is written after it is
   * overwritten by it.
   */
  #inTurn<R>(id: string, task: () => Promise<R>): Promise<R> {
    return new Promise((resolve, reject) => {
      const turn = async () => {
        await task().then(resolve, reject);
        await this.#late.get(id);
      };
      this.#queue.run(id, turn).catch(reject);
    });
  }

  async #live(id: string): Promise<SessionRecord | null> {
    const record = await this.#read(id);
    return record !== null && deadlineOf(record) > this.#clock.wall() ? record : null;
  }

  #read(id: string): Promise<SessionRecord | null> {
    return this.#answer('get a session', false, () => this.readRecord(id));
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
    const write = () => this.writeRecord(record, deadlineOf(record));
    return this.#answer('write a session', true, () => this.#keepPlace(record.id, write));
  }

  #remove(id: string): Promise<void> {
    return this.#answer('end a session', true, () => this.#keepPlace(id, () => this.removeRecord(id)));
  }

  async #keepPlace(id: string, write: () => Promise<void>): Promise<void> {
    const writing = write();
    const settled = writing.then(
      () => this.#late.delete(id),
      () => this.#late.delete(id),
    );
    this.#late.set(id, settled);
    await writing;
  }

  async *#answers(): AsyncGenerator<SessionRecord> {
    const ask = <R>(question: () => Promise<R>) => this.#answer('list sessions', false, question);
    const records = await ask(async () => this.records()[Symbol.asyncIterator]());
    // Told to stop, but not waited for where it has not answered: one that hangs would hang here too.
    const stop = async () => records.return?.();
    for (;;) {
      const next = await ask(() => records.next()).catch((error: unknown) => {
        stop().catch(() => undefined);
        throw error;
      });
      if (next.done === true) return;
      let isLeft = true;
      try {
        yield next.value;
        isLeft = false;
      } finally {
        if (isLeft) await ask(stop);
      }
    }
  }

  /** What lies beneath may fail in any way, and hang: whoever asks learns only that the store did not answer. */
  async #answer<R>(action: string, isWrite: boolean, ask: () => Promise<R>): Promise<R> {
    let timer: NodeJS.Timeout | undefined;
    const tooLate = new Promise<never>((_, reject) => {
      const detail = `no answer within ${this.#timeoutMs} ms`;
      timer = setTimeout(
        () => reject(new SessionStoreUnavailableError(action, detail, isWrite)),
        this.#timeoutMs,
      );
    });
    try {
      return await Promise.race([ask(), tooLate]);
    } catch (cause) {
      if (cause instanceof SessionError) throw cause;
      throw new SessionStoreUnavailableError(action, 'the store beneath it failed', isWrite, { cause });
    } finally {
      clearTimeout(timer);
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

import { setTimeout as delay } from 'node:timers/promises';
import { SessionArgumentError } from '../errors/caller.errors.js';
import { SessionNotReplicatedError, SessionStoreUnavailableError } from '../errors/state.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import { type DataChange, type SessionData } from './session-data.js';
import { checkChange } from './record-data.js';
import type { SessionEngine } from './session-engine.js';
import { checkNames } from './regenerate-options.js';
import {
  checkActiveWithin,
  checkListOptions,
  writeCursor,
  type ActivityOptions,
  type ListOptions,
} from './session-list.js';
import { deadlineOf, type SessionInfo, type SessionRecord } from './session-record.interface.js';
import {
  comesAfter,
  type ListPage,
  type ListPosition,
  type ListQuery,
  type SessionFence,
  type UserSessions,
} from './session-store.js';
import { partitionOfId } from './session-token.js';
import { checkUserId } from './user-id.js';

/** @publicApi */
export interface KillUserOptions {
  /** Ids of sessions to spare, e.g. the one the user is looking at. */
  except?: string | readonly string[];
}

/** @publicApi */
export interface KillOptions {
  /**
   * Only if it is this user's: for account pages, where the id comes from the client.
   * @default whoever's it is
   */
  userId?: string;
}

/** @publicApi */
export interface KillAllOptions {
  /** Called after each batch with the number of sessions ended so far. If it throws, that is told when all have ended. */
  onProgress?: (ended: number) => void;
}

/** @publicApi */
export interface GetInfoOptions {
  /** Count as use of the session. @default false */
  touch?: boolean;
}

/**
 * A part of a list.
 *
 * @publicApi
 */
export interface SessionPage {
  readonly sessions: readonly SessionInfo[];
  /** For the next part; null when there is none. */
  readonly cursor: string | null;
}

/** @publicApi */
export interface UserPage {
  /** Ids of users, the one who was active last first. */
  readonly users: readonly string[];
  /** For the next part; null when there is none. */
  readonly cursor: string | null;
}

/** Within this time a store knows of use that other processes have seen, or nearly always. */
const NOTED_WITHIN_MS = 3_000;
/** How long `updateUser` waits for a session in the middle of a move before it looks again. */
const MOVING_MS = 20;
/** Passes over a user's index in one `killUser`; each finds only what was re-created meanwhile. */
const MAX_PASSES = 100;

/**
 * Sessions by user and by public id: what an account page or an administrator needs. Never shows tokens or data, nor
 * what has expired.
 *
 * Lists come in parts, most recently active first: a session that is used between two parts moves to the front, and is
 * not in a later one. For all of them, `for await (const session of registry.sessions())`.
 *
 * All methods reject with `SessionStoreUnavailableError` when the store does not answer within `commandTimeout`, with
 * `SessionArgumentError` for a missing or wrong argument, which it names, and with `SessionOptionsError` where they need
 * what the option `index` leaves out.
 *
 * @publicApi
 */
export class SessionRegistry {
  /** @internal provided by `SessionModule` */
  constructor(
    private readonly engine: SessionEngine,
    private readonly options: Pick<ResolvedSessionOptions, 'partitions' | 'commandTimeoutMs' | 'index'>,
  ) {}

  /**
   * Number of live sessions. With `activeWithin`, which needs `index.activity`, of those active within that time; what
   * other processes saw within the last second may be missing.
   */
  async count(options: ActivityOptions = {}): Promise<number> {
    checkNames(options, ['activeWithin']);
    const within = checkActiveWithin(options);
    const { store } = this.engine;
    return within === undefined ? store.length() : store.countActive((await store.now()) - within);
  }

  /** Number of live sessions of one user. */
  async countForUser(userId: string, options: ActivityOptions = {}): Promise<number> {
    checkNames(options, ['activeWithin']);
    const within = checkActiveWithin(options) ?? Infinity;
    const { records, now } = await this.#store().userSessions(checkUserId(userId));
    return records.filter(({ lastAccess }) => now - lastAccess <= within).length;
  }

  /** A part of all sessions. Needs `index.activity`. */
  async getAllSessions(options: ListOptions = {}): Promise<SessionPage> {
    const { store } = this.engine;
    const { entries, next, now } = await store.list(await this.#query(options));
    return { sessions: entries.map((record) => describe(record, now)), cursor: next && writeCursor(next) };
  }

  /** A part of all users who have live sessions. Needs `index.users` and `index.activity`. */
  async getAllUsers(options: ListOptions = {}): Promise<UserPage> {
    const { entries, next } = await this.#store().listUsers(await this.#query(options));
    return { users: entries.map(({ id }) => id), cursor: next && writeCursor(next) };
  }

  /**
   * The user's live sessions, most recently used first; empty for an unknown user. All of them at once, unless `limit` is given;
   * then `cursorAfter` the last one leads to the next part.
   */
  async getUserSessions(userId: string, options: ListOptions = {}): Promise<SessionInfo[]> {
    const { activeWithin = Infinity, limit, after } = checkListOptions(options);
    const { records, now } = await this.#store().userSessions(checkUserId(userId));
    const wanted = records.filter(
      (record) =>
        now - record.lastAccess <= activeWithin && (after === undefined || comesAfter(record, after)),
    );
    return (options.limit === undefined ? wanted : wanted.slice(0, limit)).map((record) =>
      describe(record, now),
    );
  }

  /** The user's session that was not used for the longest time; null when they have none. */
  async getOldestUserSession(userId: string, options: GetInfoOptions = {}): Promise<SessionInfo | null> {
    const { records, now } = await this.#store().userSessions(checkUserId(userId));
    return this.#info(records.at(-1), now, options);
  }

  /** Every live session, in no order. Those that come or go meanwhile may be missed. */
  async *sessions(options: ActivityOptions = {}): AsyncGenerator<SessionInfo, void, void> {
    checkNames(options, ['activeWithin']);
    const within = checkActiveWithin(options) ?? Infinity;
    const { store } = this.engine;
    const now = await store.now();
    for await (const record of store.all())
      if (now - record.lastAccess <= within) yield describe(record, now);
  }

  /** Every user who has live sessions, once. Where there is no index of users by activity, all sessions are looked at. */
  async *users(options: ActivityOptions = {}): AsyncGenerator<string, void, void> {
    const seen = new Set<string>();
    const { index } = this.options;
    if (index === false || !index.users || !index.activity) {
      for await (const { userId } of this.sessions(options)) {
        if (userId === null || seen.has(userId)) continue;
        seen.add(userId);
        yield userId;
      }
      return;
    }
    const { activeSince: since = -Infinity } = await this.#query({ ...options });
    let activeSince = since;
    // Who is active while a pass runs moves to its front, and is found by the next one.
    for (let found = true; found;) {
      found = false;
      const begun = (await this.engine.store.now()) - NOTED_WITHIN_MS;
      let after: ListPosition | undefined;
      do {
        const { entries, next }: ListPage<ListPosition> = await this.#store().listUsers({
          activeSince,
          after,
          limit: 500,
        });
        for (const { id } of entries) {
          if (seen.has(id)) continue;
          seen.add(id);
          found = true;
          yield id;
        }
        after = next ?? undefined;
      } while (after !== undefined);
      activeSince = Math.max(since, begun);
    }
  }

  /** The cursor of the part of a list that follows this session. */
  cursorAfter({ lastAccess, id }: Pick<SessionInfo, 'lastAccess' | 'id'>): string {
    return writeCursor({ lastAccess, id });
  }

  /** True if there is a live session of this id. */
  async exists(id: string): Promise<boolean> {
    return (await this.#read(id)) !== null;
  }

  /** One session by its public id; null if there is none. */
  async get(id: string, options: GetInfoOptions = {}): Promise<SessionInfo | null> {
    const loaded = await this.#read(id);
    return loaded === null ? null : this.#info(loaded.record, loaded.now, options);
  }

  /** The store's clock, epoch milliseconds: what all points in time of sessions are measured by. */
  now(): Promise<number> {
    return this.engine.store.now();
  }

  /**
   * Ends one session everywhere. False if there is no such session, or it is not the given user's: an unknown or
   * malformed id is no error.
   */
  async kill(id: string, options: KillOptions = {}): Promise<boolean> {
    checkNames(options, ['userId']);
    if (!this.#isId(id)) return false;
    // An option that is there but undefined is a mistake, not leave to end whoever's session it is.
    if (!('userId' in options)) return this.engine.destroyById(id, 'killed');
    const userId = checkUserId(options.userId);
    const loaded = await this.#read(id);
    if (loaded === null) return this.#killMoving(id, userId);
    if (loaded.record.userId !== userId) return false;
    return this.engine.destroyById(id, 'killed', loaded.record);
  }

  /**
   * Ends all sessions the user had when it was called, those regenerated meanwhile included. Resolves to their number.
   */
  async killUser(userId: string, options: KillUserOptions = {}): Promise<number> {
    checkNames(options, ['except']);
    checkUserId(userId);
    const store = this.#store();
    const except = await this.#withSuccessors(checkExcept(options));
    const fence = await store.fence(userId, except);
    try {
      return await this.#killFenced(userId, except, fence);
    } finally {
      await fence.release();
    }
  }

  async #killFenced(userId: string, except: readonly string[], fence: SessionFence): Promise<number> {
    const { store } = this.engine;
    const first = await store.userSessions(userId);
    let found: UserSessions = first;
    let count = 0;
    let unconfirmed: SessionNotReplicatedError | undefined;
    for (let pass = 0; ; pass++) {
      if (pass === MAX_PASSES)
        throw new SessionStoreUnavailableError(
          'end all sessions of a user',
          `others kept giving them new tokens, and ${count} have ended`,
          true,
        );
      const spared = new Set([...(await fence.spared()), ...(await this.#withSuccessors(except))]);
      // First all that are listed; then what was regenerated meanwhile: it keeps its time of creation, so that it
      // cannot slip through under its new id, while a login that began after this call is left alone.
      const ids = [...found.records, ...(found.moving ?? [])]
        .filter(({ id, createdAt }) => (pass === 0 || createdAt <= first.now) && !spared.has(id))
        .map(({ id }) => id);
      // The first pass also where nothing is left: what was ended before may still wait to be confirmed by replicas.
      if (ids.length === 0 && pass > 0) break;
      try {
        count += await this.engine.destroyMany(ids, userId, 'killed');
      } catch (error) {
        if (!(error instanceof SessionNotReplicatedError)) throw error;
        unconfirmed = error.and(unconfirmed); // they have ended; the others must end too
      }
      found = await store.userSessions(userId);
    }
    if (unconfirmed !== undefined) throw unconfirmed;
    return count;
  }

  /** One in the middle of a move, which is absent but might come back. */
  async #killMoving(id: string, userId: string): Promise<boolean> {
    const { store } = this.engine;
    if (store.capabilities.index !== true) return false;
    const { moving = [] } = await store.userSessions(userId);
    if (!moving.some((record) => record.id === id)) return false;
    await this.engine.destroyMany([id], userId, 'killed');
    return true;
  }

  /** These, and what took their place where their tokens were rotated away. */
  async #withSuccessors(ids: readonly string[]): Promise<readonly string[]> {
    const successors = await Promise.all(ids.map((id) => this.engine.store.successorOf(id)));
    return [...ids, ...successors.flatMap((record) => record?.id ?? [])];
  }

  /** Ends every session there is when it is called. Resolves to their number. */
  async killAll(options: KillAllOptions = {}): Promise<number> {
    checkNames(options, ['onProgress']);
    const { onProgress } = options;
    if (onProgress !== undefined && typeof onProgress !== 'function')
      throw new SessionArgumentError('options.onProgress', `must be a function; got ${typeof onProgress}.`);
    return this.engine.destroyAll(onProgress);
  }

  /**
   * Changes the data of all live sessions of a user, when their roles change for example: a patch of fields, or a
   * function that is called for each session with its data. Resolves to the number of sessions changed.
   */
  async updateUser<T extends object = SessionData>(userId: string, change: DataChange<T>): Promise<number> {
    checkUserId(userId);
    checkChange(change);
    const store = this.#store();
    const first = await store.userSessions(userId);
    const tried = new Set<string>();
    let found: UserSessions = first;
    let count = 0;
    const giveUpAt = performance.now() + this.options.commandTimeoutMs * 2 + 2_000; // longer than any move may last
    for (let pass = 0; ; pass++) {
      const records = found.records.filter(
        ({ id, createdAt }) => pass === 0 || (!tried.has(id) && createdAt <= first.now),
      );
      const changed = await Promise.all(records.map((record) => this.engine.updateById(record, change)));
      count += changed.filter(Boolean).length;
      // One that has gone may have been regenerated: it keeps its time of creation under its new id.
      const isMoving = found.moving?.some(({ createdAt }) => createdAt <= first.now) ?? false;
      if (!isMoving && !changed.includes(false)) break;
      if (performance.now() > giveUpAt)
        throw new SessionStoreUnavailableError(
          'change all sessions of a user',
          `others kept giving them new tokens, and ${count} have been changed`,
          true,
        );
      for (const { id } of records) tried.add(id);
      if (isMoving) await delay(MOVING_MS); // until it has arrived, or is put back
      found = await store.userSessions(userId);
    }
    return count;
  }

  async #query(options: ListOptions): Promise<ListQuery> {
    const { activeWithin, limit, after } = checkListOptions(options);
    const activeSince =
      activeWithin === undefined ? undefined : (await this.engine.store.now()) - activeWithin;
    return { limit, after, activeSince };
  }

  async #info(
    record: SessionRecord | undefined,
    now: number,
    options: GetInfoOptions,
  ): Promise<SessionInfo | null> {
    checkNames(options, ['touch']);
    if (record === undefined) return null;
    if (options.touch !== true) return describe(record, now);
    const touched = await this.engine.touchById(record);
    return touched && describe(touched, Math.max(now, touched.lastAccess));
  }

  async #read(id: string) {
    if (!this.#isId(id)) return null;
    const loaded = await this.engine.store.get(id);
    return loaded !== null && loaded.record.id === id ? loaded : null;
  }

  /** @throws {SessionArgumentError} if it is not even a string */
  #isId(id: string): boolean {
    if (typeof id !== 'string')
      throw new SessionArgumentError(
        'id',
        `must be a string; got ${id === null ? 'null' : typeof id}. Pass session.id.`,
      );
    return partitionOfId(id, this.options.partitions) !== null;
  }

  #store() {
    const { store } = this.engine;
    const { index } = this.options;
    // Where the option leaves it out, the store's own methods say so.
    if (store.capabilities.index !== true && index !== false && index.users) {
      throw new SessionArgumentError(
        'store',
        `${store.constructor.name} keeps no index of users. Use Redis or the memory store.`,
      );
    }
    return store;
  }
}

/** @throws {SessionArgumentError} also for undefined: a mistake, not leave to end the session that was meant */
function checkExcept(options: KillUserOptions): readonly string[] {
  if (!('except' in options)) return [];
  const { except } = options;
  const ids: unknown = typeof except === 'string' ? [except] : except;
  if (Array.isArray(ids) && ids.every((id) => typeof id === 'string')) return ids;
  throw new SessionArgumentError(
    'options.except',
    `must be the id of a session, or an array of ids; got ${except === null ? 'null' : typeof except}. Pass session.id, or leave it out.`,
  );
}

function describe(record: SessionRecord, now: number): SessionInfo {
  const { id, userId, createdAt, lastAccess, metadata } = record;
  const deadline = deadlineOf(record);
  const expiresAt = deadline === Infinity ? null : deadline;
  return { id, userId, createdAt, lastAccess, expiresAt, idle: Math.max(0, now - lastAccess), metadata };
}

import { SessionArgumentError } from '../errors/caller.errors.js';
import type { Duration, ResolvedSessionOptions } from '../options/session-options.interface.js';
import { ActiveSession } from './active-session.js';
import { checkNames, checkRegenerateOptions, type RegenerateOptions } from './regenerate-options.js';
import { checkMetadata } from './session-metadata.js';
import type { SessionBinding } from './session-binding.interface.js';
import type { DataChange, SessionData } from './session-data.js';
import type { SessionEngine, WriteOptions } from './session-engine.js';
import type { SessionMetadata, SessionRecord } from './session-record.interface.js';
import { checkTimeouts, withTimeouts } from './session-timeouts.js';
import { checkUserId } from './user-id.js';

/** @publicApi */
export interface CreateSessionOptions {
  /** Whose session it is; it then appears in the user's list. @default nobody's */
  userId?: string;
  /** Overrides the module's option for this session, e.g. for "remember me"; 0 = never. */
  idleTimeout?: Duration;
  /** Overrides the module's option for this session; 0 = never. */
  absoluteTimeout?: Duration;
  /** Shown in the user's list of sessions. */
  metadata?: SessionMetadata;
  /**
   * A token of your own: 16 to 128 characters of `A-Za-z0-9._~-`. Needs `allowGivenTokens`, and no `userId`.
   * @default 256 random bits
   */
  token?: string;
}

/** @publicApi */
export interface GetSessionOptions {
  /**
   * Ask the store, for what must not be even `coherence.leaseMs` old: payments, changes of password and of rights.
   * @default false
   */
  fresh?: boolean;
}

/**
 * Sessions by token. Inject it into your providers:
 *
 * ```ts
 * constructor(private readonly sessions: SessionService<MyData>) {}
 * ```
 *
 * All methods reject with `SessionStoreUnavailableError` when the store does not answer within `commandTimeout`.
 *
 * @publicApi
 */
export class SessionService<T extends object = SessionData> {
  /** @internal provided by `SessionModule` */
  constructor(
    private readonly engine: SessionEngine,
    private readonly options: Pick<
      ResolvedSessionOptions,
      'idleTimeout' | 'absoluteTimeout' | 'rotateEveryMs' | 'additionalFields'
    >,
  ) {}

  /**
   * Makes a session and stores it.
   *
   * @throws {SessionDataError} if the data cannot be stored
   * @throws {SessionArgumentError} if an option is wrong
   * @throws {SessionTokenTakenError} if the given token has a session
   */
  async create(data: T = {} as T, options: CreateSessionOptions = {}): Promise<ActiveSession<T>> {
    checkNames(options, OPTION_NAMES);
    const created = await this.engine.create(data, {
      // null means "nobody" to callers that hold an optional user.
      userId: options.userId === undefined || options.userId === null ? null : checkUserId(options.userId),
      ...withTimeouts(checkTimeouts(options), this.options),
      metadata: checkMetadata(options.metadata, this.options.additionalFields),
      token: options.token,
    });
    return new ActiveSession<T>(this.engine, created.token, created.record, 'new');
  }

  /**
   * The session under a token, from the near cache where it holds a valid copy. Null for a token that is unknown,
   * expired, malformed or not even a string; that is no error. Reading does not count as use: see `touch`.
   *
   * A copy may lack changes that other processes made within the last `coherence.leaseMs`.
   */
  get(token: unknown, options?: GetSessionOptions): Promise<ActiveSession<T> | null> {
    if (options !== undefined) return this.#getWith(token, options);
    const cached = this.getCached(token);
    return cached === null ? this.getStored(token, false) : Promise.resolve(cached);
  }

  /**
   * The session under a token if the near cache can answer for it, else null. Synchronous.
   *
   * @param now what {@link now} has just given: reading the clock costs as much as the lookup
   * @internal for the guard
   */
  getCached(token: unknown, now = this.engine.now()): ActiveSession<T> | null {
    const record = this.engine.cached(token, now);
    return record === undefined ? null : new ActiveSession<T>(this.engine, token as string, record, 'cache');
  }

  /** @internal for the guard */
  now(): number {
    return this.engine.now();
  }

  /**
   * The session under a token from a file of the near cache or from the store, after `getCached` found nothing: each
   * lookup counts as a hit or a miss.
   *
   * @internal for the guard
   */
  async getStored(token: unknown, fresh: boolean): Promise<ActiveSession<T> | null> {
    const fetched = await this.engine.fetch(token, fresh);
    if (fetched === null) return null;
    return new ActiveSession<T>(this.engine, token as string, fetched.record, fetched.source, fetched.data);
  }

  /**
   * A copy of the session that is beyond its time, for when the store cannot be asked; null where there is none, or it is
   * too old.
   *
   * @internal for the HTTP layer
   */
  async getStale(token: string): Promise<ActiveSession<T> | null> {
    const record = await this.engine.stale(token);
    return record === undefined ? null : new ActiveSession<T>(this.engine, token, record, 'stale');
  }

  /**
   * Changes a session's data. A patch is laid over the top-level fields; a function gets the data, and may change it
   * or return new data. Functions run again when another process wrote meanwhile, so that no change is lost: 100
   * parallel increments add 100.
   *
   * @throws {SessionGoneError} if there is no such session: a write is never lost in silence
   * @throws {SessionConflictError} if other processes kept coming in between
   */
  async update(token: unknown, change: DataChange<T>, options?: WriteOptions): Promise<ActiveSession<T>> {
    return this.#active(token, await this.engine.update(token, null, change, options));
  }

  /**
   * Puts new data in the place of all the old.
   *
   * @throws {SessionGoneError} if there is no such session
   */
  async replace(token: unknown, data: T, options: WriteOptions = {}): Promise<ActiveSession<T>> {
    return this.#active(token, await this.engine.replace(token, data, options));
  }

  /**
   * Counts as use of the session: extends its idle deadline, never the absolute one, by at most one write per
   * `touchInterval`. Resolves to the session, or null if there is none.
   */
  async touch(token: unknown): Promise<ActiveSession<T> | null> {
    const session = await this.get(token);
    return session !== null && (await session.touch()) ? session : null;
  }

  /** Ends a session everywhere. True if it was alive; repeating it is safe. */
  destroy(token: unknown): Promise<boolean> {
    return this.engine.destroy(token, 'destroyed');
  }

  /**
   * Gives a session a new token and id, and optionally another user; see `ActiveSession.regenerate`.
   *
   * @throws {SessionGoneError} if there is no such session
   */
  async regenerate(token: unknown, options: RegenerateOptions = {}): Promise<ActiveSession<T>> {
    const moved = await this.engine.move(
      token,
      null,
      (data) => data,
      checkRegenerateOptions(options, this.options.additionalFields),
    );
    return new ActiveSession<T>(this.engine, moved.token, moved.record, 'new');
  }

  /**
   * Touches in the background if that is due; resolves to whether the session lives and was prolonged, undefined when no
   * touch is due. A failure is no reason to refuse a request that was answered for: the next one tries again.
   *
   * @internal for the guard
   */
  touchLater(session: ActiveSession<T>, now?: number): Promise<boolean> | undefined {
    return this.engine.touchIsDue(session, now) ? session.touch().catch(() => false) : undefined;
  }

  /**
   * Ends the session that took the place of a token that was rotated away a moment ago. True if there was one.
   *
   * @internal for the HTTP layer
   */
  endSuccessor(token: string): Promise<boolean> {
    return this.engine.endSuccessor(token, 'destroyed');
  }

  /**
   * @throws {SessionRotatedError} if the token was rotated away a moment ago
   * @internal for the HTTP layer
   */
  refuseRotated(token: string): Promise<void> {
    return this.engine.refuseRotated(token);
  }

  /**
   * True when the session's token has served for `rotateEvery`.
   *
   * @internal for the HTTP layer
   */
  rotationIsDue(session: ActiveSession<T>): boolean {
    const { rotateEveryMs } = this.options;
    if (rotateEveryMs === 0) return false;
    const { createdAt, metadata } = session;
    return this.engine.latestStoreNow() - Math.max(createdAt, metadata.rotatedAt ?? 0) >= rotateEveryMs;
  }

  /**
   * A session for a visitor who has none. Its first write stores it.
   *
   * @internal for the HTTP layer
   */
  unstored(binding: SessionBinding): ActiveSession<T> {
    return ActiveSession.unstored<T>(this.engine, this.options, binding);
  }

  /**
   * Signs a visitor in: the session gets a new token and the user's id, so that a token somebody planted before is
   * worth nothing (session fixation). An anonymous visitor's data is kept, another user's is dropped.
   */
  login(
    session: ActiveSession<T>,
    userId: string,
    options: Omit<RegenerateOptions, 'userId'> = {},
  ): Promise<ActiveSession<T>> {
    return session.regenerate({ ...options, userId: checkUserId(userId) });
  }

  async #getWith(token: unknown, options: GetSessionOptions): Promise<ActiveSession<T> | null> {
    if (typeof options !== 'object' || options === null || Array.isArray(options))
      throw new SessionArgumentError('options', 'must be an object. Write { fresh: true }.');
    checkNames(options, GET_OPTION_NAMES);
    const { fresh = false } = options;
    if (typeof fresh !== 'boolean')
      throw new SessionArgumentError('options.fresh', `must be true or false; got ${typeof fresh}.`);
    return fresh ? this.getStored(token, true) : this.get(token);
  }

  #active(token: unknown, record: SessionRecord): ActiveSession<T> {
    return new ActiveSession<T>(this.engine, token as string, record, 'store');
  }
}

const GET_OPTION_NAMES = ['fresh'];
const OPTION_NAMES = ['userId', 'idleTimeout', 'absoluteTimeout', 'metadata', 'token'];

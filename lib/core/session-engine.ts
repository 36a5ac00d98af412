import { setTimeout as delay } from 'node:timers/promises';
import { SessionArgumentError, SessionTokenTakenError } from '../errors/caller.errors.js';
import {
  SessionConflictError,
  SessionGoneError,
  SessionLimitError,
  SessionNotReplicatedError,
  SessionRotatedError,
  SessionStoreUnavailableError,
} from '../errors/state.errors.js';
import type { SessionEndReason, SessionEvents } from '../events/session-events.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import { StoreClock, type Clock } from './clock.js';
import { KeyedQueue } from './keyed-queue.js';
import { SessionLimits, type LimitOptions } from './session-limits.js';
import { ownerBy } from './session-owner.js';
import type { SessionCache } from './session-cache.interface.js';
import type { RecordData } from './record-data.js';
import type { DataChange, DataFields } from './session-data.js';
import type { SessionMetadata, SessionRecord } from './session-record.interface.js';
import type { LoadedSession, NewSession, SessionLimit, SessionStore } from './session-store.js';
import { withTimeouts, type SessionTimeouts } from './session-timeouts.js';
import {
  generateToken,
  identifyToken,
  isGivenToken,
  MAX_TOKEN_LENGTH,
  partitionOfUser,
  randomPartition,
  type TokenIdentity,
} from './session-token.js';

/**
 * How often one write is tried against other processes. Each conflict means that another writer got through; within a
 * process writers queue, so only processes contend.
 */
const MAX_ATTEMPTS = 64;

/**
 * How long a token that was rotated away is known as that, whatever `rotateGrace` says: a request of the same browser that
 * is under way signs out by it, and must not be taken for a new visitor's, whose session would replace the cookie.
 */
const ROTATED_MS = 30_000;

/** @publicApi */
export interface WriteOptions {
  /** Leave the deadlines as they are: the write does not count as use of the session. @default false */
  keepExpiry?: boolean;
}

/** A session read from a copy or the store. */
export interface Fetched {
  readonly record: SessionRecord;
  readonly source: 'cache' | 'store';
  /** Its data where it has just been decoded, into objects that nobody else holds. */
  readonly data: DataFields | undefined;
}

/** What `create` needs besides data; all checked by the caller. */
export interface CreateSettings extends SessionTimeouts {
  readonly userId: string | null;
  readonly metadata: SessionMetadata;
  readonly token: string | undefined;
}

/** What `move` needs; all checked by the caller. */
export interface MoveSettings {
  /** undefined: as before; null: nobody's. */
  readonly userId: string | null | undefined;
  readonly keepData: boolean;
  /** undefined: as before. */
  readonly metadata: SessionMetadata | undefined;
  /** undefined: as before, and the times go on. */
  readonly timeouts: Partial<SessionTimeouts> | undefined;
  /** A rotation of the module's own: the old token may read for a while (`rotateGrace`). */
  readonly rotates?: boolean;
}

type OptionsUsed = LimitOptions &
  Pick<
    ResolvedSessionOptions,
    | 'partitions'
    | 'allowGivenTokens'
    | 'touchInterval'
    | 'commandTimeoutMs'
    | 'rotateGraceMs'
    | 'rotateEveryMs'
    | 'idleTimeout'
    | 'absoluteTimeout'
    | 'userIdFrom'
    | 'additionalFields'
  >;

/**
 * Every operation on one session: near cache before store, guarded fills, one write at a time per session in this
 * process and compare-and-set between processes. `SessionService`, `SessionRegistry` and `ActiveSession` are faces of it.
 */
export class SessionEngine {
  readonly #queue: KeyedQueue;
  readonly #limits: SessionLimits;
  readonly #touches = new Map<string, Promise<SessionRecord | null>>();
  readonly #storeClock: StoreClock;

  constructor(
    readonly store: SessionStore,
    private readonly cache: SessionCache,
    private readonly events: SessionEvents,
    private readonly options: OptionsUsed,
    readonly data: RecordData,
    private readonly clock: Clock,
  ) {
    this.#storeClock = new StoreClock(clock);
    const waitMs = options.commandTimeoutMs;
    this.#queue = new KeyedQueue(
      waitMs,
      () =>
        new SessionStoreUnavailableError(
          'write a session',
          `earlier writes of it in this process did not end within ${waitMs} ms (a write inside an update function of ` +
            'the same session waits for itself: change the data the function is given instead)',
          false,
        ),
    );
    this.#limits = new SessionLimits(cache, events, options);
  }

  /** Monotonic milliseconds, for the hot path. */
  now(): number {
    return this.clock.glance();
  }

  /** The store's clock, estimated; epoch milliseconds. For what is shown or stored; see {@link StoreClock}. */
  storeNow(): number {
    return this.#storeClock.now();
  }

  /** The same for what becomes due: not behind where this machine was suspended. */
  latestStoreNow(): number {
    return this.#storeClock.latest();
  }

  identify(token: unknown): TokenIdentity | null {
    return identifyToken(token, this.options.partitions, this.options.allowGivenTokens);
  }

  /** The id that a token stands for; null where it cannot be a token. A copy knows it without hashing. */
  #idOf(token: unknown): string | null {
    if (typeof token !== 'string' || token.length > MAX_TOKEN_LENGTH) return null;
    return (this.cache.peek(token) ?? this.identify(token))?.id ?? null;
  }

  /** The near cache's copy. No promise, no hash, no parsing: this is the hot path. */
  cached(token: unknown, now: number): SessionRecord | undefined {
    return typeof token === 'string' && token.length <= MAX_TOKEN_LENGTH
      ? this.cache.get(token, now)
      : undefined;
  }

  /**
   * The session from the store, put into the near cache on the way; null when there is none. Parallel callers share
   * one read, and unknown tokens are remembered, as far as the near cache may.
   *
   * @param fresh a read of its own, begun now
   */
  async fetch(token: unknown, fresh = false): Promise<Fetched | null> {
    const identity = this.identify(token);
    if (identity === null) return null;
    const found = await this.cache.load(token as string, identity.id, () => this.#read(identity.id), fresh);
    return found && { record: found.record, source: found.source, data: found.own?.data };
  }

  /** A copy for when the store cannot be asked; see `onStoreUnavailable: 'stale'`. */
  async stale(token: string): Promise<SessionRecord | undefined> {
    const identity = this.identify(token);
    return identity === null ? undefined : this.cache.stale(token);
  }

  /** Names of metadata that the app has added. */
  get additionalFields(): readonly string[] {
    return this.options.additionalFields;
  }

  create(data: object, settings: CreateSettings): Promise<{ token: string; record: SessionRecord }> {
    const { userId } = settings;
    const { token, id } = this.#newToken(userId, settings.token);
    return this.createAs({ token, id }, this.data.encode(data, { id, userId }), settings);
  }

  /** A token and id for a session that nobody owns and that is not in the store yet. */
  reserveToken(): { token: string; id: string } {
    return this.#newToken(null, undefined);
  }

  /** @param encoded data, by {@link encode} for this id and user */
  async createAs(
    { token, id }: { token: string; id: string },
    encoded: string,
    settings: CreateSettings,
  ): Promise<{ token: string; record: SessionRecord }> {
    const { userId } = settings;
    const limit = await this.#limits.of(userId);
    if (limit === undefined) return this.#createOne({ token, id }, encoded, settings, undefined);
    return this.#limits.inTurn(userId, () => this.#createOne({ token, id }, encoded, settings, limit));
  }

  async #createOne(
    { token, id }: { token: string; id: string },
    encoded: string,
    { userId, idleTimeout, absoluteTimeout, metadata, token: given }: CreateSettings,
    limit: SessionLimit | undefined,
  ): Promise<{ token: string; record: SessionRecord }> {
    const ticket = this.cache.reserveForWrite(id);
    try {
      const result = await this.store.create({
        id,
        userId,
        idleTimeout,
        absoluteTimeout,
        metadata,
        data: encoded,
        given: given !== undefined,
        ...(limit !== undefined && { limit }),
      });
      if (result.status === 'taken') throw new SessionTokenTakenError(id);
      for (const session of result.displaced ?? []) limit?.onDisplaced?.(session);
      if (result.status === 'limit') throw new SessionLimitError(userId!, limit!.max);
      this.#storeClock.observe(result.now);
      this.cache.set(ticket, token, result);
      this.events.emit('created', { id, userId });
      return { token, record: result.record };
    } finally {
      this.cache.release(ticket);
    }
  }

  /**
   * Reads, changes and writes until no other writer comes in between. Resolves to the record as written.
   *
   * @param known a record to try first; null reads one
   * @param propose makes the new encoded data out of the record it is to replace; called again after a conflict
   * @param options.repeatable whether making the change twice does what making it once does; if not, and a reply was
   *   lost in a conflict, the outcome is reported as unknown instead of guessed
   */
  write(
    token: unknown,
    known: SessionRecord | null,
    propose: (base: SessionRecord) => string | Promise<string>,
    options: WriteOptions & { readonly repeatable?: boolean } = {},
  ): Promise<SessionRecord> {
    const id = this.#idOf(token);
    if (id === null) return Promise.reject(new SessionGoneError(null));
    return this.#queue.run(id, () =>
      this.#retry(id, token as string, known, async (base) => {
        const proposed = propose(base);
        const data = typeof proposed === 'string' ? proposed : await proposed;
        this.checkOwner(base, data);
        const ticket = this.cache.reserveForWrite(id);
        try {
          const result = await this.store.set({ base, data, keepExpiry: options.keepExpiry === true });
          if (result.status === 'conflict' && result.uncertain && options.repeatable !== true) {
            throw new SessionStoreUnavailableError(
              'save a session',
              'the link broke while others wrote too',
              true,
            );
          }
          if (result.status !== 'written') return result;
          this.#storeClock.observe(result.now);
          this.cache.set(ticket, token as string, result);
          return { status: 'done', value: result.record };
        } finally {
          this.cache.release(ticket);
        }
      }),
    );
  }

  /** Writes a patch or the outcome of a function; see {@link DataChange}. */
  update<T extends object>(
    token: unknown,
    known: SessionRecord | null,
    change: DataChange<T>,
    options: WriteOptions = {},
  ): Promise<SessionRecord> {
    const repeatable = typeof change !== 'function';
    return this.write(token, known, this.data.proposal(change), { ...options, repeatable });
  }

  /** Puts the data, as it is now, in the place of all there is. */
  replace(token: unknown, data: object, options: WriteOptions): Promise<SessionRecord> {
    const { isCanonical } = this.data.codec;
    const context = { id: (isCanonical ? null : this.identify(token)?.id) ?? '', userId: null };
    const encoded = this.data.encode(data, context);
    // Whose session it is shows only when its record has been read.
    const propose = (base: SessionRecord) =>
      isCanonical ? encoded : this.data.encode(this.data.codec.decode(encoded, context), base);
    return this.write(token, null, propose, { ...options, repeatable: true });
  }

  /**
   * Replaces token and id. Data passes on only to the same user, or from nobody to a user.
   *
   * @param change lays unsaved changes over the stored data
   */
  move(
    token: unknown,
    known: SessionRecord | null,
    change: (data: DataFields) => DataFields,
    settings: MoveSettings,
  ): Promise<{ readonly token: string; readonly record: SessionRecord }> {
    const identity = this.identify(token);
    if (identity === null) return Promise.reject(new SessionGoneError(null));
    const { rotateGraceMs } = this.options;
    const { userId, keepData, metadata, timeouts, rotates = false } = settings;
    return this.#queue.run(identity.id, () =>
      this.#retry(identity.id, token as string, known, async (base) => {
        const owner = userId === undefined ? base.userId : userId;
        const limit = owner === base.userId ? undefined : await this.#limits.of(owner);
        const isOwners = base.userId === null || base.userId === owner;
        const data = keepData && isOwners ? change(this.data.decode(base)) : {};
        const next = this.#newToken(owner, undefined, owner === base.userId ? identity.partition : undefined);
        const session: NewSession = {
          id: next.id,
          userId: owner,
          ...withTimeouts(timeouts, isOwners ? timeoutsOf(base) : this.options),
          metadata: this.#withTokenAge(this.#withAuthentication(metadata, base, { ...settings, owner })),
          ...(limit !== undefined && { limit }),
          data: this.data.encode(data, { id: next.id, userId: owner }),
          ...(rotates && { alias: { readMs: rotateGraceMs, keepMs: Math.max(rotateGraceMs, ROTATED_MS) } }),
          ...(timeouts?.absoluteTimeout !== undefined && { restartsAbsolute: true }),
        };
        this.cache.delete(base.id);
        const ticket = this.cache.reserveForWrite(next.id);
        try {
          const move = () => this.store.move(base, session);
          const result = await (limit === undefined ? move() : this.#limits.inTurn(owner, move));
          if ('displaced' in result) for (const one of result.displaced ?? []) limit?.onDisplaced?.(one);
          if (result.status === 'limit') throw new SessionLimitError(owner!, limit!.max);
          if (result.status !== 'moved') return result;
          this.#storeClock.observe(result.now);
          this.cache.delete(base.id);
          this.cache.set(ticket, next.token, result);
          this.events.emit('regenerated', { id: next.id, previousId: base.id, userId: owner });
          return { status: 'done', value: { token: next.token, record: result.record } };
        } finally {
          this.cache.release(ticket);
        }
      }),
    );
  }

  /**
   * Refuses data that says another user than before, in a write that gives no new token and enters no user's index.
   *
   * @param data encoded, for `base`
   * @throws {SessionArgumentError}
   */
  checkOwner(base: SessionRecord, data: string): void {
    const { userIdFrom } = this.options;
    if (userIdFrom === undefined || data === base.data) return;
    const owner = ownerBy(userIdFrom, this.data.codec.decode(data, base));
    if (owner === base.userId || owner === ownerBy(userIdFrom, this.data.decode(base))) return;
    throw new SessionArgumentError(
      'change',
      'would change whose session it is (option "userIdFrom") without a new token. Change session.data in its request, ' +
        'which saves it, or call SessionService.login(session, userId).',
    );
  }

  /**
   * When a user proved who they are goes with the user it was given for. It need not be kept where that is when the
   * session was created.
   */
  #withAuthentication(
    metadata: SessionMetadata | undefined,
    base: SessionRecord,
    { owner, userId }: Pick<MoveSettings, 'userId'> & { owner: string | null },
  ): SessionMetadata {
    const { authenticatedAt, ...others } = base.metadata;
    const next = metadata ?? others;
    if (owner === null || owner !== base.userId) return next;
    const at = typeof userId === 'string' ? Math.floor(this.storeNow()) : authenticatedAt;
    return at === undefined ? next : Object.freeze({ ...next, authenticatedAt: at });
  }

  /** With `rotateEvery`, the age of a token counts from when it was issued, whoever asked for that. */
  #withTokenAge(metadata: SessionMetadata): SessionMetadata {
    if (this.options.rotateEveryMs === 0) return metadata;
    return Object.freeze({ ...metadata, rotatedAt: Math.floor(this.storeNow()) });
  }

  /** True if the id's token was rotated away a moment ago, and another stands for the session. */
  async isRotated(id: string): Promise<boolean> {
    return this.options.rotateEveryMs > 0 && (await this.store.successorOf(id)) !== null;
  }

  /** Ends the session that has the place of a token that was rotated away a moment ago. True if there was one. */
  async endSuccessor(token: string, reason: SessionEndReason): Promise<boolean> {
    const identity = this.options.rotateEveryMs === 0 ? null : this.identify(token);
    const successor = identity && (await this.store.successorOf(identity.id));
    return successor ? this.destroyById(successor.id, reason, successor) : false;
  }

  /** @throws {SessionRotatedError} if the token was rotated away a moment ago: nothing may be begun in its place */
  async refuseRotated(token: string): Promise<void> {
    const identity = this.options.rotateEveryMs === 0 ? null : this.identify(token);
    const successor = identity && (await this.store.successorOf(identity.id));
    if (successor) throw new SessionRotatedError(successor.id);
  }

  /** True when a touch of the record would be written. */
  touchIsDue(record: Pick<SessionRecord, 'lastAccess' | 'idleTimeout'>, now?: number): boolean {
    return this.#storeClock.latest(now) - record.lastAccess >= this.#touchInterval(record);
  }

  /**
   * Extends the idle deadline if that is due; parallel calls share one write. Null when the session has ended.
   *
   * @param record as the caller knows it; a newer copy in the near cache counts too
   */
  async touch(token: string, record: SessionRecord): Promise<SessionRecord | null> {
    const copy = this.cache.peek(token);
    const latest =
      copy !== undefined && copy.lastAccess > record.lastAccess
        ? { ...record, lastAccess: copy.lastAccess }
        : record;
    // A token that was rotated away prolongs nothing.
    if (!this.touchIsDue(latest) || (copy ?? this.identify(token))?.id !== record.id) return latest;
    const pending = this.#touches.get(record.id);
    if (pending !== undefined) return pending;
    const touching = this.#touch(token, latest).finally(() => this.#touches.delete(record.id));
    this.#touches.set(record.id, touching);
    return touching;
  }

  /** Ends a session by token. True if it was alive. */
  async destroy(token: unknown, reason: SessionEndReason, known?: SessionRecord): Promise<boolean> {
    const identity = this.identify(token);
    if (identity === null) return false;
    const record = known ?? this.cache.peek(token as string);
    const ended = await this.destroyById(record?.id ?? identity.id, reason, record);
    if (ended || this.options.rotateEveryMs === 0) return ended;
    // A token that was rotated away writes nothing, but it does sign out.
    const successor = await this.store.successorOf(record?.id ?? identity.id);
    return successor !== null && this.destroyById(successor.id, reason, successor);
  }

  /** Ends a session by its public id, which the caller has checked. */
  async destroyById(id: string, reason: SessionEndReason, known?: SessionRecord): Promise<boolean> {
    const userId = known?.userId ?? null;
    const ended = await this.#end([id], userId, reason, async () =>
      (await this.store.destroy(id, known && { userId })) ? [id] : [],
    );
    return ended === 1;
  }

  /** Ends many sessions of one user. Resolves to their number. */
  destroyMany(ids: readonly string[], userId: string, reason: SessionEndReason): Promise<number> {
    return this.#end(ids, userId, reason, (tell) => this.store.destroyMany(ids, userId, tell));
  }

  /**
   * Ends every session. Resolves to their number.
   *
   * @param onProgress called with the number so far
   */
  async destroyAll(onProgress?: (ended: number) => void): Promise<number> {
    let count = 0;
    const failures: unknown[] = [];
    const onEnded: Parameters<SessionStore['clear']>[0] = (sessions) => {
      for (const { id, userId } of sessions) {
        this.cache.delete(id);
        this.events.emit('destroyed', { id, userId, reason: 'killed' });
      }
      count += sessions.length;
      try {
        const returned: unknown = onProgress?.(count);
        if (returned instanceof Promise) returned.catch((error: unknown) => failures.push(error));
      } catch (error) {
        failures.push(error); // all must end
      }
    };
    try {
      await this.store.clear(onEnded);
    } catch (error) {
      // Some may have ended whose reply was lost, and what was announced with it.
      if (!(error instanceof SessionNotReplicatedError)) this.cache.clear();
      throw error;
    }
    if (failures.length > 0) throw failures[0];
    return count;
  }

  /** Changes a session whose token nobody here knows; that is no use of it. False when it has ended. */
  updateById<T extends object>(known: SessionRecord, change: DataChange<T>): Promise<boolean> {
    const { id } = known;
    const propose = this.data.proposal(change);
    return this.#queue.run(id, async () => {
      let base = known;
      for (let tries = 1; this.#tryDecode(base) !== null; tries++) {
        const data = await propose(base);
        this.checkOwner(base, data);
        const ticket = this.cache.reserveForWrite(id);
        try {
          const result = await this.store.set({ base, data, keepExpiry: true });
          if (result.status === 'gone') return false;
          this.#storeClock.observe(result.now);
          if (result.status === 'written') {
            this.cache.invalidate(id, result.record.version);
            return true;
          }
          if (result.uncertain && typeof change === 'function')
            throw new SessionStoreUnavailableError(
              'update a session',
              'the link broke while others wrote too',
              true,
            );
          if (tries === MAX_ATTEMPTS) throw new SessionConflictError(id, tries);
          base = result.record;
        } finally {
          this.cache.release(ticket);
        }
      }
      return false;
    });
  }

  /** Counts as use, where that is due. Null when the session has ended. */
  async touchById(record: SessionRecord): Promise<SessionRecord | null> {
    if (!this.touchIsDue(record)) return record;
    const touched = await this.store.touch(record.id, this.#touchInterval(record), { userId: record.userId });
    if (touched === null) {
      this.cache.delete(record.id);
      return null;
    }
    this.#storeClock.observe(touched.now);
    return { ...record, lastAccess: touched.lastAccess };
  }

  /** @param write resolves to the ids that were alive; may tell of them before */
  async #end(
    ids: readonly string[],
    userId: string | null,
    reason: SessionEndReason,
    write: (tell: (ended: readonly string[]) => void) => Promise<readonly string[]>,
  ): Promise<number> {
    const forget = () => {
      for (const id of ids) this.cache.delete(id);
    };
    const told = new Set<string>();
    const tell = (ended: readonly string[]) => {
      for (const id of ended) {
        if (told.has(id)) continue;
        told.add(id);
        this.events.emit('destroyed', { id, userId, reason });
      }
    };
    // Before the write, so that nothing is served while it is under way; after it, because reads may have come between.
    forget();
    try {
      const ended = await write(tell);
      forget();
      tell(ended);
      return ended.length;
    } catch (error) {
      forget();
      if (error instanceof SessionNotReplicatedError) tell(error.ended);
      throw error;
    }
  }

  /** Runs writes of one `ActiveSession` in turn, so that each starts from what the one before it wrote. */
  inTurn<R>(session: object, task: () => Promise<R>): Promise<R> {
    return this.#queue.run(session, task);
  }

  /** Resolves when every write that has begun has ended, or after `commandTimeout`: a hanging one must not hold up a shutdown. */
  async idle(): Promise<void> {
    const ended = Promise.allSettled([this.#queue.idle(), this.#limits.idle(), ...this.#touches.values()]);
    const abort = new AbortController();
    await Promise.race([
      ended,
      delay(this.options.commandTimeoutMs, undefined, { signal: abort.signal }).catch(() => undefined),
    ]);
    abort.abort();
  }

  async #read(id: string): Promise<(LoadedSession & { readonly data: DataFields }) | null> {
    const loaded = await this.store.get(id);
    if (loaded === null) return null;
    if (loaded.isEstimate !== true) this.#storeClock.observe(loaded.now);
    const data = this.#tryDecode(loaded.record);
    return data && { ...loaded, data };
  }

  async #touch(token: string, record: SessionRecord): Promise<SessionRecord | null> {
    const sentAt = this.clock.monotonic();
    const touched = await this.store.touch(record.id, this.#touchInterval(record), { userId: record.userId });
    if (touched === null) {
      this.cache.delete(record.id);
      return null;
    }
    this.#storeClock.observe(touched.now);
    this.cache.refresh(token, sentAt, touched);
    return { ...record, lastAccess: touched.lastAccess };
  }

  /** A session with a shorter idle timeout than the module's must be touched more often than `touchInterval`. */
  #touchInterval(record: Pick<SessionRecord, 'idleTimeout'>): number {
    const { touchInterval } = this.options;
    return record.idleTimeout > 0
      ? Math.min(touchInterval, Math.floor(record.idleTimeout / 2))
      : touchInterval;
  }

  /** Tries on the newest record at hand, then on what each conflict brings along. */
  async #retry<R>(
    id: string,
    token: string,
    known: SessionRecord | null,
    attempt: (
      base: SessionRecord,
    ) => Promise<
      | { status: 'done'; value: R }
      | { status: 'gone' }
      | { status: 'conflict'; record: SessionRecord; now: number }
    >,
  ): Promise<R> {
    let base = newer(known, this.cache.peek(token)) ?? (await this.fetch(token))?.record;
    if (base !== undefined && base.id !== id) throw new SessionRotatedError(base.id);
    for (let tries = 1; base !== undefined; tries++) {
      const outcome = await attempt(base);
      if (outcome.status === 'done') return outcome.value;
      if (outcome.status === 'gone') break;
      if (tries === MAX_ATTEMPTS) throw new SessionConflictError(id, tries);
      this.#storeClock.observe(outcome.now);
      base = this.#tryDecode(outcome.record) === null ? undefined : outcome.record;
      // The first repetition at once, later ones spread out so that processes stop meeting.
      if (tries > 1) await delay(Math.random() * Math.min(2 ** tries, 32));
    }
    this.cache.delete(id);
    const successor = this.options.rotateEveryMs === 0 ? null : await this.store.successorOf(id);
    throw successor === null ? new SessionGoneError(id) : new SessionRotatedError(successor.id);
  }

  #tryDecode(record: SessionRecord): DataFields | null {
    try {
      return this.data.decode(record);
    } catch {
      // The codec's message may quote the data, so it is not passed on.
      this.events.emit('undecodable', { id: record.id, reason: 'the codec cannot decode the data' });
      return null;
    }
  }

  #newToken(
    userId: string | null,
    given: string | undefined,
    partition?: number,
  ): { token: string; id: string } {
    const { partitions } = this.options;
    if (given !== undefined) {
      if (!this.options.allowGivenTokens) {
        throw new SessionArgumentError(
          'token',
          'was given, but allowGivenTokens is off. Let create() generate it, or set allowGivenTokens: true.',
        );
      }
      if (!isGivenToken(given)) {
        throw new SessionArgumentError(
          'token',
          'must have 16 to 128 characters of A-Z a-z 0-9 . _ ~ - and not the form of a generated one.',
        );
      }
      if (userId !== null) {
        throw new SessionArgumentError(
          'token',
          "cannot be given for a session with a userId: it would not lie in the user's partition. Drop one of both.",
        );
      }
      return { token: given, id: identifyToken(given, partitions, true)!.id };
    }
    const home =
      userId === null ? (partition ?? randomPartition(partitions)) : partitionOfUser(userId, partitions);
    const token = generateToken(home);
    return { token, id: identifyToken(token, partitions, false)!.id };
  }
}

function timeoutsOf({ idleTimeout, absoluteDeadline, createdAt }: SessionRecord): SessionTimeouts {
  return { idleTimeout, absoluteTimeout: absoluteDeadline === 0 ? 0 : absoluteDeadline - createdAt };
}

function newer(a: SessionRecord | null, b: SessionRecord | undefined): SessionRecord | undefined {
  if (a === null) return b;
  return b !== undefined && b.version > a.version ? b : a;
}

import { SessionArgumentError } from '../errors/caller.errors.js';
import { SessionGoneError, SessionStoreUnavailableError } from '../errors/state.errors.js';
import {
  applyInPlace,
  applyPatch,
  hasField,
  assignField,
  type DataChange,
  type DataFields,
  type FieldPatch,
  type SessionData,
} from './session-data.js';
import { csrfTokenOf } from './csrf-token.js';
import { checkRegenerateOptions, type RegenerateOptions } from './regenerate-options.js';
import type { SessionBinding } from './session-binding.interface.js';
import { ASK } from './record-data.js';
import type { MoveSettings, SessionEngine, WriteOptions } from './session-engine.js';
import { withTimeouts, type SessionTimeouts } from './session-timeouts.js';
import { deadlineOf, type SessionMetadata, type SessionRecord } from './session-record.interface.js';

const NO_METADATA: SessionMetadata = Object.freeze({});

/**
 * Where the session came from: made just now, the near cache, or the store. `stale`: the store could not be asked, and
 * this is a copy beyond its time (option `onStoreUnavailable`), which may only be read.
 */
export type SessionSource = 'new' | 'cache' | 'store' | 'stale';

/**
 * One session, as one request (or job, or socket) holds it.
 *
 * `data` is a draft: change it freely, then `save()`. Nobody else sees the changes before that, and only the changed
 * top-level fields are laid over what the store holds by then, so two requests that save different fields both win.
 * `set`, `delete`, `update` and `clear` write at once. Writes of one object run one after another.
 *
 * Writing methods reject with `SessionGoneError` once the session has ended anywhere, with `SessionDataError` if the
 * data cannot be stored, and with `SessionStoreUnavailableError` if the store cannot answer.
 *
 * Logging a session shows neither its token nor its data.
 *
 * @publicApi
 */
export class ActiveSession<T extends object = SessionData> {
  readonly #engine: SessionEngine;
  #token: string;
  #record: SessionRecord;
  #source: SessionSource;
  #draft: DataFields | undefined;
  #ended = false;
  #stored = true;
  #destroyedHere = false;
  #mustStore = false;
  #csrfToken = false;
  #binding: SessionBinding | undefined;

  /** @internal sessions come from `SessionService` */
  constructor(
    engine: SessionEngine,
    token: string,
    record: SessionRecord,
    source: SessionSource,
    draft?: DataFields,
  ) {
    this.#engine = engine;
    this.#token = token;
    this.#record = record;
    this.#source = source;
    this.#draft = engine.data.wraps ? undefined : draft; // an instance of dataClass is made when somebody asks for it
  }

  /**
   * A session that is stored by its first write. Until then nothing of it is anywhere else.
   *
   * @internal
   */
  static unstored<T extends object>(
    engine: SessionEngine,
    timeouts: SessionTimeouts,
    binding: SessionBinding,
  ): ActiveSession<T> {
    const { token, id } = engine.reserveToken();
    const now = engine.storeNow();
    const { idleTimeout, absoluteTimeout } = timeouts;
    const session = new ActiveSession<T>(
      engine,
      token,
      {
        id,
        userId: null,
        version: 0,
        createdAt: now,
        lastAccess: now,
        idleTimeout,
        absoluteDeadline: absoluteTimeout === 0 ? 0 : now + absoluteTimeout,
        metadata: NO_METADATA,
        data: engine.data.encode({}, { id, userId: null }),
      },
      'new',
    );
    session.#stored = false;
    session.#binding = binding;
    return session;
  }

  /** @internal */
  bind(binding: SessionBinding): this {
    this.#binding = binding;
    return this;
  }

  /** The secret the client holds (44 characters). Never log or store it. Changes with `regenerate`. */
  get token(): string {
    return this.#token;
  }

  /** Public name (23 characters): safe to log and list. Changes with `regenerate`. */
  get id(): string {
    return this.#record.id;
  }

  /** Null while anonymous. */
  get userId(): string | null {
    return this.#record.userId;
  }

  /** The draft of the data; see the class. The same object until `clear`, `reload`, `regenerate` or an assignment. */
  get data(): T {
    this.#binding?.onUse();
    return (this.#draft ??= this.#engine.data.draft(this.#record)) as T;
  }

  set data(data: T) {
    this.#binding?.onUse();
    this.#draft = this.#engine.data.wrap(data as DataFields);
  }

  /** Epoch milliseconds by the store's clock. */
  get createdAt(): number {
    return this.#record.createdAt;
  }

  /** Epoch milliseconds by the store's clock, of the last save or touch this object knows of. */
  get lastAccess(): number {
    return this.#record.lastAccess;
  }

  /** Milliseconds without use after which the session ends; 0 = never. */
  get idleTimeout(): number {
    return this.#record.idleTimeout;
  }

  /** Epoch milliseconds by the store's clock; null = never. */
  get expiresAt(): number | null {
    const deadline = deadlineOf(this.#record);
    return deadline === Infinity ? null : deadline;
  }

  /** Milliseconds until `expiresAt`, 0 when passed; null = never. */
  get expiresIn(): number | null {
    const deadline = this.expiresAt;
    return deadline === null ? null : Math.max(0, deadline - this.#now);
  }

  /** Milliseconds since `lastAccess`. */
  get idle(): number {
    return Math.max(0, this.#now - this.#record.lastAccess);
  }

  /** The life of a session that is not stored has not begun: the store's clock may not even be known yet. */
  get #now(): number {
    return this.#stored ? this.#engine.storeNow() : this.#record.createdAt;
  }

  /**
   * The store's clock, as far as it has been heard; epoch milliseconds.
   *
   * @internal for transports
   */
  get storeNow(): number {
    return this.#engine.storeNow();
  }

  /** False once this object has learned that the session ended, or its time is up. `reload` asks the store. */
  get valid(): boolean {
    return !this.#ended && this.expiresIn !== 0;
  }

  /** True if this object made the session: by `create`, or by `regenerate`, which makes a new one of the old. */
  get isNew(): boolean {
    return this.#source === 'new';
  }

  /** False for a visitor's session that nothing has been written to: it is not in the store, and has no cookie. */
  get isStored(): boolean {
    return this.#stored;
  }

  /**
   * True if this object ended the session, by `destroy`.
   *
   * @internal for transports
   */
  get destroyedHere(): boolean {
    return this.#destroyedHere;
  }

  /**
   * True where something of it was handed out that only a stored session makes good: a CSRF token.
   *
   * @internal for transports
   */
  get mustStore(): boolean {
    return this.#mustStore;
  }

  /**
   * True where something of it was handed out that only its present token makes good: a CSRF token.
   *
   * @internal for transports
   */
  get mustKeepToken(): boolean {
    return this.#csrfToken;
  }

  /** True if the draft holds changes that are not saved. */
  get hasChanges(): boolean {
    if (this.#mustStore && !this.#stored) return !this.#destroyedHere; // without encoding what may be refused
    return this.encodedChanges() !== undefined;
  }

  /**
   * The draft, encoded, if it holds changes that are not saved; for {@link store}, which need not encode it again then.
   *
   * @internal for transports
   */
  encodedChanges(): string | undefined {
    if (this.#destroyedHere) return undefined; // one that others ended still has something to fail with
    const draft = this.#draft;
    if (this.#mustStore && !this.#stored) return this.#encoded(draft ?? {});
    if (draft === undefined || this.#engine.data.isUnchanged(this.#record, draft)) return undefined;
    const encoded = this.#encoded(draft);
    return this.#engine.data.isSaved(this.#record, encoded) ? undefined : encoded;
  }

  /**
   * The stored data and the draft; null where nobody has looked at the data.
   *
   * @internal for transports
   */
  drafted(): { readonly before: DataFields; readonly after: DataFields } | null {
    return this.#draft === undefined
      ? null
      : { before: this.#engine.data.draft(this.#record), after: this.#draft };
  }

  /**
   * The draft as others would get it: objects that share nothing with it.
   *
   * @internal for transports
   */
  snapshot(): DataFields {
    const record = this.#record;
    if (this.#draft === undefined) return this.#engine.data.decode(record);
    return this.#engine.data.decode({ ...record, data: this.#encoded(this.#draft) });
  }

  /**
   * The fields of the draft that are not saved.
   *
   * @internal for transports
   */
  unsaved(): DataFields {
    if (this.#draft === undefined) return {};
    const after = { ...this.#record, data: this.#encoded(this.#draft) };
    return Object.fromEntries(this.#difference(this.#engine.data.baseline(this.#record), after).set);
  }

  /**
   * When the user of this session last proved who they are: by `login`, by `create` with a `userId`, or by
   * `reauthenticated`. Epoch milliseconds by the store's clock; null for a session of nobody.
   */
  get lastAuthenticatedAt(): number | null {
    if (this.userId === null) return null;
    return this.#record.metadata.authenticatedAt ?? this.#record.createdAt;
  }

  /**
   * True if the user proved who they are within the last `ms`.
   *
   * @internal for the guard
   */
  authenticatedWithin(ms: number): boolean {
    const at = this.lastAuthenticatedAt;
    return at !== null && this.#engine.latestStoreNow() - at <= ms;
  }

  get source(): SessionSource {
    return this.#source;
  }

  /** Where and on what the session was created. Frozen. */
  get metadata(): SessionMetadata {
    return this.#record.metadata;
  }

  /** The draft's value of one field; undefined when absent. */
  get<K extends keyof T & string>(key: K): T[K] | undefined {
    if (this.#draft === undefined) {
      // Who gets a string or a number can change nothing by it, so the response need not be watched.
      const value = this.#engine.data.primitive(this.#record, key);
      if (value !== ASK) return value as T[K] | undefined;
    }
    const { data } = this;
    return hasField(data, key) ? data[key] : undefined;
  }

  /** Writes one field at once; other unsaved changes of the draft stay unsaved. */
  async set<K extends keyof T & string>(key: K, value: T[K], options?: WriteOptions): Promise<void> {
    await this.#patch({ set: new Map([[key, value]]), remove: new Set() }, options);
  }

  /** Removes one field at once. */
  async delete(key: keyof T & string, options?: WriteOptions): Promise<void> {
    await this.#patch({ set: new Map(), remove: new Set([key]) }, options);
  }

  /**
   * Changes the stored data at once, as `SessionService.update` does: a patch of fields, or a function that gets the
   * stored data (not this draft) and changes it, or returns all of the new data. Safe for counters that parallel
   * requests share. The draft takes over every field that changed; its other unsaved changes stay unsaved.
   */
  async update(change: DataChange<T>, options?: WriteOptions): Promise<void> {
    this.#binding?.onUse();
    await this.#inTurn(async () => {
      const before = this.#record;
      if (!this.#stored) await this.#store(await this.#engine.data.proposal(change)(before));
      else this.#record = await this.#live(() => this.#engine.update(this.#token, before, change, options));
      if (this.#draft === undefined) return;
      const { baseline } = this.#engine.data;
      applyInPlace(this.#draft, this.#difference(baseline(before), baseline(this.#record)));
    });
  }

  /** Removes all data at once, unsaved changes included; the session itself lives on. */
  async clear(options?: WriteOptions): Promise<void> {
    await this.#inTurn(async () => {
      const empty = this.#encoded({});
      if (!this.#stored) {
        await this.#binding?.beforeStoring?.(); // there may be one that it is not known of
        this.#draft = undefined;
        return;
      }
      this.#record = await this.#live(() =>
        this.#engine.write(this.#token, this.#record, () => empty, { ...options, repeatable: true }),
      );
      this.#draft = undefined;
    });
  }

  /** Writes the changed fields of the draft; nothing when there are none. */
  async save(options?: WriteOptions): Promise<void> {
    await (this.#binding?.saves?.(this as ActiveSession<object>, options) ?? this.store(options));
  }

  /**
   * The same, whatever else depends on the data.
   *
   * @param now the draft as {@link encodedChanges} has just encoded it
   * @internal for transports
   */
  async store(options?: WriteOptions, now?: string): Promise<void> {
    if (this.#ended) throw new SessionGoneError(this.id);
    let known = now;
    const storing = this.#inTurn(async () => {
      const draft = this.#draft === undefined && !this.#stored ? {} : this.#draft;
      const before = this.#record;
      if (draft === undefined) return;
      const encoded = known ?? this.#encoded(draft);
      if (!this.#stored) {
        // Whoever saves an empty session by hand wants it stored; the HTTP layer asks `hasChanges` first.
        await this.#store(encoded);
        return;
      }
      if (this.#engine.data.isSaved(before, encoded)) return;
      const changes = () =>
        this.#difference(this.#engine.data.baseline(before), { ...before, data: encoded });
      this.#record = await this.#live(() =>
        this.#engine.write(
          this.#token,
          before,
          // Nearly always nobody else wrote since this session was read, and the draft is what is to be written.
          (base) => (base.version === before.version ? encoded : this.#overlay(base, changes())),
          { ...options, repeatable: true },
        ),
      );
      if (this.#record.data !== encoded) this.#takeOver(draft, before, changes());
    });
    known = undefined; // after other writes of this object the draft may be another
    await storing;
  }

  /** Reads the session from the store again; unsaved changes of the draft are lost. */
  async reload(): Promise<void> {
    if (!this.#stored && !this.#ended) {
      this.#draft = undefined;
      return;
    }
    const { id } = this;
    const loaded = await this.#live(() => this.#engine.fetch(this.#token, true));
    if (loaded === null) {
      this.#onGone(id);
      throw new SessionGoneError(id);
    }
    this.#record = loaded.record;
    this.#draft = loaded.data && this.#engine.data.wrap(loaded.data);
    this.#source = 'store';
  }

  /**
   * Extends the idle deadline, never the absolute one. Writes at most once per `touchInterval`; in between it is a
   * no-op. False when the session has ended.
   */
  async touch(): Promise<boolean> {
    if (this.#source === 'stale') throw staleCopy();
    if (this.#ended || !this.#stored) return !this.#ended;
    const { id } = this;
    const touched = await this.#engine.touch(this.#token, this.#record);
    if (touched === null) {
      if (!(await this.#engine.isRotated(id))) this.#onGone(id);
    } else if (this.id === id && touched.lastAccess > this.lastAccess) {
      // Only the time: a write of this object may have been answered meanwhile, and parallel touches share an answer.
      this.#record = { ...this.#record, lastAccess: touched.lastAccess };
    }
    return !this.#ended;
  }

  /**
   * Gives the session a new token and id, for every change of rights (sign-in, sign-out, step-up), and timeouts of its
   * own where they are given. The old token is refused everywhere from then on; both are never usable together. Unsaved
   * changes are saved with it.
   */
  async regenerate(options: RegenerateOptions = {}): Promise<this> {
    const settings = checkRegenerateOptions(options, this.#engine.additionalFields);
    if (this.#ended) throw new SessionGoneError(this.id);
    this.#binding?.onUse();
    return this.#move(settings);
  }

  /**
   * Replaces the token as the option `rotateEvery` wants it. Unsaved changes are saved with it.
   *
   * @internal for transports
   */
  async rotate(): Promise<void> {
    await this.#move({ ...checkRegenerateOptions(), rotates: true });
  }

  #move(settings: MoveSettings): Promise<this> {
    return this.#inTurn(async () => {
      const before = this.#record;
      if (!this.#stored) {
        const data = settings.keepData && this.#draft !== undefined ? this.#draft : {};
        await this.#create(data, settings);
        this.#draft = undefined;
        return this;
      }
      const patch =
        this.#draft === undefined
          ? null
          : this.#difference(this.#engine.data.baseline(before), {
              ...before,
              data: this.#encoded(this.#draft),
            });
      const moved = await this.#live(() =>
        this.#engine.move(
          this.#token,
          before,
          (data) => (patch === null ? data : applyPatch(data, patch)),
          settings,
        ),
      );
      this.#token = moved.token;
      this.#record = moved.record;
      this.#draft = undefined;
      this.#source = 'new';
      return this;
    });
  }

  /**
   * The user has just proved again who they are, by their password for example: for `@RecentLogin()`. A change of rights:
   * the session gets a new token.
   *
   * @throws {SessionArgumentError} if the session is nobody's
   */
  async reauthenticated(): Promise<this> {
    const { userId } = this;
    if (userId === null)
      throw new SessionArgumentError(
        'reauthenticated()',
        "needs a session of a user, and this one is nobody's. Call SessionService.login(session, userId).",
      );
    return this.regenerate({ userId });
  }

  /** Ends the session everywhere. Repeating it is safe. */
  async destroy(): Promise<void> {
    if (this.#source === 'stale') throw staleCopy();
    this.#binding?.onUse();
    const wasAlive = this.#stored
      ? await this.#engine.destroy(this.#token, 'destroyed', this.#record)
      : (await this.#binding?.endSuccessor?.()) === true || !this.#ended;
    this.#ended = true;
    this.#destroyedHere ||= wasAlive;
  }

  /**
   * What forms and scripts of the app's own pages send along so that `CsrfGuard` lets them through (43 characters).
   * Changes with `regenerate`. A visitor's session that was not stored is stored for it.
   */
  csrfToken(): string {
    this.#csrfToken = true;
    if (!this.#stored) {
      this.#mustStore = true;
      this.#binding?.onUse();
    }
    return csrfTokenOf(this.#token);
  }

  /** What logs and `JSON.stringify` get: neither token nor data. */
  toJSON(): Record<string, unknown> {
    const { id, userId, createdAt, lastAccess, expiresAt, metadata } = this;
    return { id, userId, createdAt, lastAccess, expiresAt, metadata };
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return `ActiveSession { id: '${this.id}', userId: ${JSON.stringify(this.userId)}, source: '${this.#source}' }`;
  }

  async #patch(patch: FieldPatch, options?: WriteOptions): Promise<void> {
    this.#binding?.onUse();
    await this.#inTurn(async () => {
      const before = this.#record;
      if (!this.#stored) {
        await this.#store(this.#overlay(before, patch));
        if (this.#draft !== undefined) applyInPlace(this.#draft, patch);
        return;
      }
      this.#record = await this.#live(() =>
        this.#engine.write(this.#token, before, (base) => this.#overlay(base, patch), {
          ...options,
          repeatable: true,
        }),
      );
      if (this.#draft === undefined) return;
      applyInPlace(this.#draft, patch);
      this.#takeOver(this.#draft, before, patch);
    });
  }

  /** Stores a session that was not, under the token it has. */
  async #store(encoded: string): Promise<void> {
    this.#binding?.onUse();
    this.#engine.checkOwner(this.#record, encoded);
    await this.#binding?.beforeStoring?.();
    const { idleTimeout } = this.#record;
    const created = await this.#live(() =>
      this.#engine.createAs({ token: this.#token, id: this.id }, encoded, {
        userId: null,
        idleTimeout,
        absoluteTimeout: this.#absoluteTimeout,
        metadata: this.#binding?.metadata() ?? NO_METADATA,
        token: undefined,
      }),
    );
    this.#record = created.record;
    this.#stored = true;
  }

  /** Stores a session that was not, as a user's: with a token in the user's partition. */
  async #create(data: object, { userId, metadata, timeouts }: MoveSettings): Promise<void> {
    await this.#binding?.beforeStoring?.();
    const created = await this.#live(() =>
      this.#engine.create(data, {
        userId: userId ?? null,
        ...withTimeouts(timeouts, {
          idleTimeout: this.#record.idleTimeout,
          absoluteTimeout: this.#absoluteTimeout,
        }),
        metadata: metadata ?? this.#binding?.metadata() ?? NO_METADATA,
        token: undefined,
      }),
    );
    this.#token = created.token;
    this.#record = created.record;
    this.#stored = true;
  }

  get #absoluteTimeout(): number {
    const { absoluteDeadline, createdAt } = this.#record;
    return absoluteDeadline === 0 ? 0 : absoluteDeadline - createdAt;
  }

  /** Writes of this object one after another: each starts from what the one before it left. */
  #inTurn<R>(write: () => Promise<R>): Promise<R> {
    if (this.#source === 'stale') return Promise.reject(staleCopy());
    return this.#engine.inTurn(this, write);
  }

  /** The record's data with a patch laid over, encoded. */
  #overlay(base: SessionRecord, patch: FieldPatch): string {
    return this.#engine.data.encode(applyPatch(this.#engine.data.decode(base), patch), base);
  }

  /** Encoded for this session as it is named now. */
  #encoded(data: object): string {
    return this.#engine.data.encode(data, this.#record);
  }

  /** Brings fields that others wrote into the draft. Those of the patch, and those changed here meanwhile, stay. */
  #takeOver(draft: DataFields, before: SessionRecord, patch: FieldPatch): void {
    const written = this.#engine.data.decode(this.#engine.data.baseline(this.#record));
    const own = this.#differenceOf(this.#engine.data.decode(this.#engine.data.baseline(before)), draft);
    const isOurs = ({ set, remove }: FieldPatch, key: string) => set.has(key) || remove.has(key);
    for (const key of new Set([...Object.keys(draft), ...Object.keys(written)])) {
      if (isOurs(patch, key) || isOurs(own, key)) continue;
      if (Object.hasOwn(written, key)) assignField(draft, key, written[key]);
      else delete draft[key];
    }
  }

  #difference(before: SessionRecord, after: SessionRecord): FieldPatch {
    return this.#differenceOf(this.#engine.data.decode(before), this.#engine.data.decode(after));
  }

  #differenceOf(before: DataFields, after: DataFields): FieldPatch {
    return this.#engine.data.difference(before, after, this.#record);
  }

  /** Runs an operation on a session that has not ended as far as we know, and remembers if it turns out to have. */
  async #live<R>(operation: () => Promise<R>): Promise<R> {
    const { id } = this;
    if (this.#ended) throw new SessionGoneError(id);
    try {
      return await operation();
    } catch (error) {
      if (error instanceof SessionGoneError) this.#onGone(id);
      throw error;
    }
  }

  /** The session is gone under `id`; a `regenerate` of this object meanwhile is no end. */
  #onGone(id: string): void {
    if (this.id === id) this.#ended = true;
  }
}

/** Nothing may be built on what a stale copy says. */
function staleCopy(): SessionStoreUnavailableError {
  return new SessionStoreUnavailableError(
    'change a session',
    "it could not be asked for it, and this is a stale copy, for reading only (onStoreUnavailable: 'stale')",
    false,
  );
}

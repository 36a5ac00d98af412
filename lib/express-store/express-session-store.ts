import { EventEmitter } from 'node:events';
import {
  SessionArgumentError,
  SessionConflictError,
  type DataCodec,
  type SessionEventMap,
  type SessionEvents,
  type SessionRecord,
  type SessionStore,
} from '../index.js';
import type { ExpressFields, ForeignStore } from './foreign-store.js';
import { LoadedSession, LoadedSessions, ORIGIN } from './loaded-session.js';
import {
  dataOf,
  isSame,
  lifeOf,
  merged,
  partsOf,
  sessionFrom,
  withoutProto,
  type SessionParts,
} from './session-fields.js';

/** Of other writers' changes that come in between. */
const MAX_ATTEMPTS = 64;

/** What the stores keep of an idle timeout; longer ones are cut. Milliseconds. */
export const MAX_LIFE_MS = 1_000 * 86_400_000;

/** All checked by `toExpressStore`. */
export interface ExpressSessionStoreSettings {
  readonly ttlMs: number;
  /** 0: none. */
  readonly absoluteMs: number;
  readonly codec: DataCodec;
  readonly idOf: (sid: string) => string | null;
  readonly events: SessionEvents | undefined;
  readonly fallback: ForeignStore | undefined;
}

/** A session on its way here from the old store. */
interface Move {
  result: Promise<SessionRecord | null>;
  /** From here on, what is under way may write the session here. */
  isCreating: boolean;
  isCancelled: boolean;
}

/* oxlint-disable typescript/no-explicit-any -- the two libraries' types of sessions and requests agree on nothing, and
   neither can be imported here */
type Callback = (error: any, result?: any) => void;
type Done = (error?: any) => void;
type Request = any;
type Session = any;
interface Classes {
  readonly generate: (request: Request) => void;
  readonly Session: new (request: Request, data: object) => Session;
  readonly cookiePrototype: object;
}
/* oxlint-enable typescript/no-explicit-any */

/**
 * What `toExpressStore` makes: a store for `express-session` and for `@fastify/session`.
 *
 * Events: `connect` and `disconnect` (with the option `events`), and `gone` with `{ id }` where a session was not saved
 * because it had been destroyed or had expired meanwhile.
 *
 * @publicApi
 */
export class ExpressSessionStore extends EventEmitter {
  /** Makes a new session; express-session sets it. */
  generate?: (request: Request) => void;
  readonly #store: SessionStore;
  readonly #settings: ExpressSessionStoreSettings;
  readonly #loaded = new LoadedSessions();
  #classes: Classes | undefined;
  readonly #moves = new Map<string, Move>();
  readonly #onAvailable = ({ available }: SessionEventMap['storeAvailable']): void =>
    void this.emit(available ? 'connect' : 'disconnect');

  /** @internal made by `toExpressStore` */
  constructor(store: SessionStore, settings: ExpressSessionStoreSettings) {
    super();
    this.#store = store;
    this.#settings = settings;
    settings.events?.on('storeAvailable', this.#onAvailable);
  }

  /** Stops listening to `events` and to the fallback; the stores stay open. */
  close(): void {
    this.#settings.events?.off('storeAvailable', this.#onAvailable);
    this.#settings.fallback?.release();
  }

  /** The live session, or null; null too for a `sid` that could not be one. */
  get(sid: string, callback: Callback): void {
    this.#answer(this.#load(sid), callback);
  }

  /**
   * Saves what has changed in the session since it was loaded: fields that others changed meanwhile stay. An object that
   * was loaded from here and whose session is gone is not saved (event `gone`), and that is no error: express-session
   * would cut the connection for it. Any other object is a new session, or replaces the one there is.
   */
  set(sid: string, session: Session, callback?: Done): void {
    this.#answer(this.#save(sid, session as object), callback);
  }

  /** Prolongs the session, and keeps what has changed in its cookie. One that is not there is no error. */
  touch(sid: string, session: Session, callback?: Done): void {
    this.#answer(this.#touch(sid, session as object), callback);
  }

  /**
   * Ends the session here in any case, and then in the fallback; the first error is reported. Where the fallback's copy
   * could not be ended, the next request with its cookie brings it back.
   */
  destroy(sid: string, callback?: Done): void {
    this.#answer(this.#destroy(sid), callback);
  }

  /** All sessions of the store, whoever made them, with their public id as `id`. Their sids are known to nobody. */
  all(callback: Callback): void {
    this.#answer(this.#all(), callback);
  }

  /** Number of sessions in the store, whoever made them. */
  length(callback: Callback): void {
    this.#answer(this.#store.length(), callback);
  }

  /**
   * Ends all sessions of the store, whoever made them, and then those of the fallback; the first error is reported, e.g.
   * that the fallback has no `clear`.
   */
  clear(callback?: Done): void {
    this.#answer(this.#clear(), callback);
  }

  /** As express-session's `Store` has it: a new session in place of the request's, which is destroyed. */
  regenerate(request: Request, callback: Done): void {
    this.destroy(request.sessionID as string, (error) => {
      this.generate?.(request);
      callback(error);
    });
  }

  /** As express-session's `Store` has it: a `Session` outside of a request; undefined if there is none. */
  load(sid: string, callback: Callback): void {
    this.get(sid, (error, session) => {
      if (error) return callback(error);
      if (!session) return callback(null);
      const request = { sessionID: sid, sessionStore: this, headers: {} };
      callback(null, this.createSession(request, session));
    });
  }

  /** As express-session's `Store` has it: makes what `get` gave the request's `Session`. */
  createSession(request: Request, stored: Session): Session {
    const { Session, cookiePrototype } = this.#classesFor(request as object);
    const { expires, originalMaxAge } = stored.cookie;
    // What the constructor of Cookie does, which cannot be had: through the setters of its prototype.
    const cookie = Object.create(cookiePrototype) as Record<string, unknown>;
    Object.assign(cookie, { path: '/', maxAge: null, httpOnly: true }, withoutProto(stored.cookie as object));
    if (typeof expires === 'string') cookie.expires = new Date(expires);
    cookie.originalMaxAge = originalMaxAge;
    const { [ORIGIN]: _, ...fields } = withoutProto(stored as ExpressFields);
    const session = new Session(request, { ...fields, cookie });
    request.session = session;
    // Session leaves out fields that have the names of its methods: they stay stored, and must not look like removed ones.
    for (const key of Object.keys(stored as object))
      if (!Object.hasOwn(session as object, key)) delete stored[key];
    const sid: unknown = request.sessionID;
    const id = typeof sid === 'string' ? this.#settings.idOf(sid) : null;
    const loaded = id === null ? undefined : this.#loaded.find(stored as object, id);
    if (loaded !== undefined) {
      loaded.update(loaded.record, partsOf(session as object));
      this.#loaded.add(session as object, loaded);
    }
    return session;
  }

  /** The classes of express-session, which give themselves away in `generate`: it is not ours to import. */
  #classesFor(request: object): Classes {
    const { generate } = this;
    if (generate === undefined)
      throw new SessionArgumentError(
        'store',
        'is not in use by express-session yet, so sessions cannot be made. Call session({ store, … }) first.',
      );
    if (this.#classes?.generate === generate) return this.#classes;
    // Stands in for the request, which keeps its own session.
    const probe = Object.create(request) as { session: { constructor: Classes['Session']; cookie: object } };
    generate.call(this, probe);
    const { constructor: Session, cookie } = probe.session;
    return (this.#classes = { generate, Session, cookiePrototype: Object.getPrototypeOf(cookie) as object });
  }

  async #load(sid: string): Promise<ExpressFields | null> {
    const id = this.#settings.idOf(sid);
    if (id === null) return null;
    const answer = await this.#store.get(id);
    const found = ofId(id, answer) ?? (await this.#fromFallback(sid, id));
    if (found === null) return null;
    const data = this.#decode(found);
    if (data === null) return null;
    const session = sessionFrom(found, data, answer?.now);
    const loaded = new LoadedSession(found, partsOf(session));
    this.#loaded.add(session, loaded);
    return this.generate === undefined ? { ...session, [ORIGIN]: loaded } : session;
  }

  async #read(id: string): Promise<SessionRecord | null> {
    return ofId(id, await this.#store.get(id));
  }

  async #save(sid: string, session: object): Promise<void> {
    const id = this.#idFor(sid);
    const parts = partsOf(session);
    const life = lifeOf(parts.cookie, Date.now());
    if (life !== undefined && life <= 0) return this.#destroy(sid);
    const loaded = this.#loaded.find(session, id);
    if (loaded === undefined) {
      this.#loaded.add(session, new LoadedSession(await this.#put(id, parts), parts));
    } else if (isSame(loaded.parts, parts)) {
      if ((await this.#store.touch(id, 0)) === null) this.#onGone(id);
    } else await this.#merge(loaded, parts);
  }

  async #touch(sid: string, session: object): Promise<void> {
    const id = this.#settings.idOf(sid);
    if (id === null) return;
    const { cookie } = partsOf(session);
    const loaded = this.#loaded.find(session, id) ?? (await this.#loadedNow(id));
    if (loaded === null) return;
    const parts = { fields: loaded.parts.fields, cookie };
    if (isSame(loaded.parts, parts)) await this.#store.touch(id, 0);
    else await this.#merge(loaded, parts);
  }

  async #loadedNow(id: string): Promise<LoadedSession | null> {
    const record = await this.#read(id);
    const data = record && this.#decode(record);
    return data === null ? null : new LoadedSession(record!, partsOf(sessionFrom(record!, data)));
  }

  /** Lays what has changed since the session was loaded over what the store has by now. */
  async #merge(loaded: LoadedSession, parts: SessionParts): Promise<void> {
    const { id } = loaded.record;
    let base = loaded.record;
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const current = this.#decode(base);
      if (current === null) return this.#onGone(id); // no session to this store, and not for it to overwrite
      const data = merged(current, loaded.parts, parts);
      const result = await this.#store.set(this.#change(base, data, parts, loaded.parts));
      if (result.status === 'gone') return this.#onGone(id);
      if (result.status === 'written') return loaded.update(result.record, parts);
      base = result.record;
    }
    throw new SessionConflictError(id, MAX_ATTEMPTS);
  }

  /** Creates the session, or replaces what is there. */
  async #put(id: string, parts: SessionParts): Promise<SessionRecord> {
    const data = dataOf(parts);
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
      const created = await this.#create(id, parts);
      if (created !== null) return created;
      const base = await this.#read(id);
      if (base === null) continue;
      const result = await this.#store.set(this.#change(base, data, parts));
      if (result.status === 'written') return result.record;
    }
    throw new SessionConflictError(id, MAX_ATTEMPTS);
  }

  /** Null if the id has a session. */
  async #create(id: string, parts: SessionParts): Promise<SessionRecord | null> {
    const result = await this.#store.create({
      id,
      userId: null,
      idleTimeout: this.#idleTimeout(parts) ?? this.#settings.ttlMs,
      absoluteTimeout: this.#settings.absoluteMs,
      metadata: {},
      data: this.#settings.codec.encode(dataOf(parts), { id, userId: null }),
      given: true,
    });
    return result.status === 'created' ? result.record : null;
  }

  #change(base: SessionRecord, data: ExpressFields, parts: SessionParts, before?: SessionParts) {
    const hadAge = before === undefined || lifeOf(before.cookie, 0) !== undefined;
    const isCookieSame = before !== undefined && isSame({ ...before, fields: parts.fields }, parts);
    // A cookie without an age leaves a session's life alone, unless it had one until now.
    const idleTimeout = this.#idleTimeout(parts) ?? (hadAge ? this.#settings.ttlMs : undefined);
    return {
      base,
      data: this.#settings.codec.encode(data, base),
      keepExpiry: false,
      ...(idleTimeout !== undefined && !isCookieSame && { idleTimeout }),
    };
  }

  #idleTimeout({ cookie }: SessionParts): number | undefined {
    const life = lifeOf(cookie, Date.now());
    return life === undefined ? undefined : Math.min(Math.max(life, 1), MAX_LIFE_MS);
  }

  async #destroy(sid: string): Promise<void> {
    const id = this.#settings.idOf(sid);
    if (id === null) return;
    const { fallback } = this.#settings;
    await this.#end(
      () => this.#store.destroy(id, { userId: null }),
      fallback && (() => fallback.destroy(sid)),
      () => this.#cancelMove(id),
    );
  }

  async #all(): Promise<ExpressFields[]> {
    const sessions: ExpressFields[] = [];
    for await (const record of this.#store.all()) {
      const data = this.#decode(record);
      if (data !== null) sessions.push({ ...sessionFrom(record, data), id: record.id });
    }
    return sessions;
  }

  async #clear(): Promise<void> {
    const { fallback } = this.#settings;
    await this.#end(
      () => this.#store.clear(),
      fallback && (() => fallback.clear()),
      () => Promise.all([...this.#moves.keys()].map((id) => this.#cancelMove(id))),
    );
  }

  /**
   * Ours at once, whatever becomes of theirs. And once more at the end: whoever moves a session just now looks there again
   * after writing it here, so what was written before theirs was ended goes now.
   */
  async #end(
    ours: () => Promise<unknown>,
    theirs: (() => Promise<unknown>) | undefined,
    cancel: () => Promise<unknown>,
  ): Promise<void> {
    if (theirs === undefined) return void (await ours());
    const results = await Promise.allSettled([ours()]);
    results.push(...(await Promise.allSettled([theirs()])));
    await cancel();
    results.push(...(await Promise.allSettled([ours()])));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  /** What still reads will not write, and is not waited for: the old store may hang. */
  async #cancelMove(id: string): Promise<void> {
    const move = this.#moves.get(id);
    if (move === undefined) return;
    move.isCancelled = true;
    this.#moves.delete(id);
    if (move.isCreating) await move.result.catch(() => null); // its own caller hears of it
  }

  /** Parallel requests of one browser share one move. */
  #fromFallback(sid: string, id: string): Promise<SessionRecord | null> {
    const { fallback } = this.#settings;
    if (fallback === undefined) return Promise.resolve(null);
    const known = this.#moves.get(id);
    if (known !== undefined) return known.result;
    const move: Move = { result: Promise.resolve(null), isCreating: false, isCancelled: false };
    this.#moves.set(id, move);
    move.result = this.#move(fallback, sid, id, move).finally(() => {
      if (this.#moves.get(id) === move) this.#moves.delete(id);
    });
    return move.result;
  }

  /** Takes a session over from the old store: written here, then removed there. */
  async #move(fallback: ForeignStore, sid: string, id: string, move: Move): Promise<SessionRecord | null> {
    const found = await fallback.get(sid);
    if (found === null) return null;
    const { id: _, ...session } = found; // some put the sid in
    const parts = partsOf(session);
    // By the store's clock: this process's may be wrong, and nobody is to be signed out by it.
    const ends = endOf(session);
    if ((ends !== null && ends <= (await this.#store.now())) || move.isCancelled) return null;
    move.isCreating = true;
    const created = await this.#create(id, parts);
    if (created === null) return this.#read(id); // another process was faster, and removes it
    try {
      // Destroyed meanwhile by another process? Only one that creates removes it there, and that is us.
      if ((await fallback.get(sid)) !== null) {
        await fallback.destroy(sid);
        return created;
      }
    } catch (error) {
      // Of two copies, one would outlive a logout that knows only the other. The next request tries again.
      await this.#store.destroy(id, { userId: null }).catch(() => null);
      throw error;
    }
    await this.#store.destroy(id, { userId: null });
    return null;
  }

  /** Null for data that is not of our codec: as everywhere, no session. */
  #decode(record: SessionRecord): ExpressFields | null {
    try {
      return this.#settings.codec.decode(record.data, record);
    } catch {
      return null; // the module tells of it (event `undecodable`) where it comes across the record
    }
  }

  #idFor(sid: string): string {
    const id = this.#settings.idOf(sid);
    if (id !== null) return id;
    throw new SessionArgumentError(
      'sid',
      'must have 16 to 128 characters of A-Za-z0-9._~-, and not the 44 of a token of this package. The defaults of ' +
        'express-session and @fastify/session do; change genid (idGenerator).',
    );
  }

  #onGone(id: string): void {
    this.emit('gone', { id });
  }

  #answer<R>(promise: Promise<R>, callback: ((error: unknown, result?: R) => void) | undefined): void {
    // Outside of the promise: what a callback throws is not ours to catch.
    promise.then(
      (result) => void (callback && setImmediate(callback, null, result)),
      (error: unknown) => {
        if (callback !== undefined) setImmediate(callback, error);
        else process.emitWarning(`A session was not changed: ${String(error)}`, 'SessionStoreWarning');
      },
    );
  }
}

/** The record of this very id: where the module has given its session a new token, the old one is no session. */
function ofId(id: string, found: { readonly record: SessionRecord } | null): SessionRecord | null {
  return found?.record.id === id ? found.record : null;
}

/** Epoch milliseconds; null for a cookie without an end. */
function endOf({ cookie }: ExpressFields): number | null {
  const expires = (cookie as { expires?: unknown } | undefined)?.expires;
  return expires === undefined || expires === null ? null : Number(new Date(expires as string));
}

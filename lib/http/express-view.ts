import type { ActiveSession } from '../core/active-session.js';
import { assignField, type DataFields } from '../core/session-data.js';
import { durationArgument, TOKEN_LIFE } from '../core/session-timeouts.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import { answerOfLookup } from './http-errors.js';
import type { RequestSession } from './request-session.js';
import { TrackedPromise } from './tracked-promise.js';
import type { ViewRules } from './view-rules.js';

type Session = ActiveSession<object>;

/** As `express-session` calls it: with an error, or with nothing. */
export type SessionCallback = (error?: unknown) => void;

/**
 * `request.session` with the option `expressView`: the fields of the session's data are its own properties, changed
 * freely and saved before the response leaves; the names below are taken.
 *
 * The methods do what `express-session` documents. With a callback they return the view; without, a promise of it that
 * has the same methods, for chaining. An error that nobody takes, by a callback or by waiting for the promise, becomes
 * the response. `JSON.stringify` shows the data without the cookie, logging shows field names only.
 *
 * @publicApi
 */
export interface ExpressSession {
  /** Public id of the session: safe to log. Not the token, unlike `express-session`'s. */
  readonly id: string;
  readonly cookie: ExpressSessionCookie;
  /** Writes the changes now; a session that was not stored is stored, even if it is empty. */
  save(): ChainablePromise;
  save(callback: SessionCallback): this;
  /** Reads the data from the store again. `SessionGoneError` if the session has ended. */
  reload(): ChainablePromise;
  reload(callback: SessionCallback): this;
  /** Counts as use; at most one write per `touchInterval`. The module does this for every request. */
  touch(): ChainablePromise;
  touch(callback: SessionCallback): this;
  /** Ends the session; `request.session` is a new one from then on, empty and nobody's. */
  regenerate(): ChainablePromise;
  regenerate(callback: SessionCallback): this;
  /** Ends the session; `request.session` is undefined at once. */
  destroy(): ChainablePromise;
  destroy(callback: SessionCallback): this;
  /** Does nothing: the cookie's time begins anew whenever it is sent. For chaining. */
  resetMaxAge(): this;
  [field: string]: unknown;
}

/** A promise of the view, with its methods. */
export type ChainablePromise = Promise<ExpressSession> &
  Pick<ExpressSession, 'save' | 'reload' | 'touch' | 'regenerate' | 'destroy'>;

/**
 * The cookie of one session. Its life may be set, e.g. for "remember me": it stays with the session, which then lives
 * as long without use (`idleTimeout`). The other attributes are the module's.
 *
 * @publicApi
 */
export interface ExpressSessionCookie {
  /** Milliseconds left; null: until the browser is closed. Set it to milliseconds or a string such as `'30d'`. */
  get maxAge(): number | null;
  set maxAge(life: number | string | null);
  /** The same as a date; null: until the browser is closed. Set it to a date, or to null or false. */
  get expires(): Date | null;
  set expires(at: Date | null | false);
  /** Milliseconds as they were set; null: until the browser is closed. */
  get originalMaxAge(): number | null;
  set originalMaxAge(life: number | string | null);
  readonly path: string;
  readonly domain: string | undefined;
  readonly httpOnly: boolean;
  readonly secure: boolean;
  readonly sameSite: string;
  readonly partitioned: boolean;
}

/** Names of the view itself; a field of the data of such a name is reached by `@Session()` of this package only. */
const RESERVED = new Set(['id', 'cookie', 'save', 'reload', 'touch', 'regenerate', 'destroy', 'resetMaxAge']);

/** `request.session` of one request: which view stands there now. */
export class RequestView {
  #view: ExpressSession | undefined;
  #gone = false;
  #failed = false;
  #error: unknown;

  constructor(
    readonly held: RequestSession,
    readonly rules: ViewRules,
  ) {}

  /**
   * Undefined after `destroy`.
   *
   * @throws {ServiceUnavailableException} if the store could not tell of the request's session
   */
  get session(): ExpressSession | undefined {
    if (this.#failed) {
      // Access logs read it when nothing can be answered any more, and nobody is there to catch.
      if (this.held.isAnswered) return undefined;
      throw answerOfLookup(this.#error);
    }
    if (this.#gone) return undefined;
    return (this.#view ??= SessionView.open(this));
  }

  fail(error: unknown): void {
    this.#failed = true;
    this.#error = error;
  }

  /** The next reader gets a view of the new session. */
  renewed(): void {
    this.#view = undefined;
  }

  destroyed(): void {
    this.#gone = true;
  }
}

/** What stands behind the proxy that apps see. */
class SessionView {
  static readonly #of = new WeakMap<object, SessionView>();
  /** The session that this view was of, once the request has gone on to another: passport still reads it. */
  #former: Session | undefined;
  #cookie: ViewCookie | undefined;
  readonly #proxy: ExpressSession;

  static open(owner: RequestView): ExpressSession {
    return new SessionView(owner).#proxy;
  }

  constructor(private readonly owner: RequestView) {
    this.#proxy = new Proxy<SessionView>(this, HANDLER) as unknown as ExpressSession;
    SessionView.#of.set(this.#proxy, this);
  }

  /** Methods are called on the proxy, which has no private parts; the handler reads `id` and `cookie` of the object. */
  static of(view: unknown): SessionView {
    const known = typeof view === 'object' && view !== null ? SessionView.#of.get(view) : undefined;
    if (known === undefined) throw new TypeError('This is a method of request.session');
    return known;
  }

  get fields(): DataFields {
    // What was a user's goes over to nobody else, not even by passport's keepSessionInfo.
    if (this.#former !== undefined && this.#former.userId !== null) return {};
    return this.current.data as DataFields;
  }

  get current(): Session {
    return this.#former ?? this.owner.held.visitor;
  }

  get id(): string {
    return this.current.id;
  }

  get cookie(): ViewCookie {
    return (this.#cookie ??= new ViewCookie(() => this.current, this.owner.rules));
  }

  save(callback?: SessionCallback): unknown {
    return SessionView.of(this).#run(callback, (held) => held.save());
  }

  reload(callback?: SessionCallback): unknown {
    return SessionView.of(this).#run(callback, (held) => held.visitor.reload());
  }

  touch(callback?: SessionCallback): unknown {
    return SessionView.of(this).#run(callback, (held) => held.visitor.touch());
  }

  regenerate(callback?: SessionCallback): unknown {
    const view = SessionView.of(this);
    return view.#run(callback, async (held) => {
      const former = held.visitor;
      await held.renew();
      view.#former = former;
      view.owner.renewed();
    });
  }

  destroy(callback?: SessionCallback): unknown {
    const view = SessionView.of(this);
    const former = view.current;
    return view.#run(callback, async (held) => {
      view.#former = former;
      view.owner.destroyed();
      await held.visitor.destroy();
    });
  }

  resetMaxAge(): unknown {
    return this;
  }

  /** Neither data nor token in logs. */
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    const { current, fields } = SessionView.#of.get(this) ?? this; // Node calls it on the proxy
    return `Session { id: '${current.id}', fields: ${JSON.stringify(visibleKeys(fields))} }`;
  }

  #run(
    callback: SessionCallback | undefined,
    operation: (held: RequestSession) => Promise<unknown>,
  ): ExpressSession | ChainablePromise {
    if (callback !== undefined && typeof callback !== 'function')
      throw new SessionArgumentError(
        'callback',
        `must be a function; got ${typeof callback}. Drop it for a promise.`,
      );
    const { held } = this.owner;
    const running = perform(held, operation);
    if (callback === undefined) {
      const promise = new ViewPromise((resolve, reject) => {
        running.then(() => resolve(this.owner.session ?? this.#proxy), reject);
      });
      promise.quiet().view = this.owner;
      held.waitFor(running, () => promise.taken);
      return promise as unknown as ChainablePromise;
    }
    held.waitFor(running, () => callback.length > 0); // one that takes no error leaves it to the response
    // Outside the promise: what the callback throws is thrown as from any other callback.
    running.then(
      () => process.nextTick(callback),
      (error: unknown) => process.nextTick(callback, error),
    );
    return this.#proxy;
  }
}

/** A promise of the view, with its methods. */
class ViewPromise extends TrackedPromise<ExpressSession> {
  view: RequestView | undefined;

  save(callback?: SessionCallback): unknown {
    return this.#next.save(callback!);
  }

  reload(callback?: SessionCallback): unknown {
    return this.#next.reload(callback!);
  }

  touch(callback?: SessionCallback): unknown {
    return this.#next.touch(callback!);
  }

  regenerate(callback?: SessionCallback): unknown {
    return this.#next.regenerate(callback!);
  }

  destroy(callback?: SessionCallback): unknown {
    return this.#next.destroy(callback!);
  }

  get #next(): ExpressSession {
    const session = this.view?.session;
    if (session === undefined) throw new TypeError('The session has been destroyed by this request');
    return session;
  }
}

/** Who may not cause changes learns it where errors are expected, by callback or promise: others would end the process. */
async function perform(
  held: RequestSession,
  operation: (held: RequestSession) => Promise<unknown>,
): Promise<unknown> {
  held.checkOrigin();
  return operation(held);
}

/** Writes go into the draft; `RequestSession.save` decides whether a request may change anything. */
const HANDLER: ProxyHandler<SessionView> = {
  get: (view, key) =>
    isReserved(key)
      ? (Reflect.get(SessionView.prototype, key, view) as unknown)
      : (Reflect.get(view.fields, key) as unknown),
  set(view, key, value) {
    refuseReserved(key);
    if (typeof key === 'symbol') return false;
    assignField(view.fields, key, value);
    return true;
  },
  has: (view, key) => isReserved(key) || Reflect.has(view.fields, key),
  deleteProperty(view, key) {
    refuseReserved(key);
    return Reflect.deleteProperty(view.fields, key);
  },
  defineProperty(view, key, descriptor) {
    refuseReserved(key);
    return Reflect.defineProperty(view.fields, key, { ...descriptor, configurable: true });
  },
  ownKeys: (view) => visibleKeys(view.fields),
  getOwnPropertyDescriptor(view, key) {
    if (isReserved(key)) return undefined;
    const descriptor = Reflect.getOwnPropertyDescriptor(view.fields, key);
    // A proxy may not call fixed what its target does not have.
    return descriptor && { ...descriptor, configurable: true };
  },
  getPrototypeOf: () => Object.prototype,
  setPrototypeOf: () => false,
  preventExtensions: () => false,
};

/** The cookie of a view; see {@link ExpressSessionCookie}. */
class ViewCookie implements ExpressSessionCookie {
  readonly #session: () => Session;
  readonly #rules: ViewRules;

  constructor(session: () => Session, rules: ViewRules) {
    this.#session = session;
    this.#rules = rules;
  }

  get originalMaxAge(): number | null {
    const life = this.#rules.cookieLifeOf(this.#session());
    return life === undefined ? (this.#rules.options.cookie.maxAgeMs ?? null) : life;
  }

  set originalMaxAge(life: number | string | null) {
    this.maxAge = life;
  }

  get maxAge(): number | null {
    const life = this.originalMaxAge;
    const session = this.#session();
    if (life === null) return null;
    return session.isStored
      ? Math.max(0, Math.min(life - session.idle, session.expiresIn ?? Infinity))
      : life;
  }

  set maxAge(life: number | string | null) {
    this.#rules.setCookieLife(this.#session(), life === null ? null : checkLife('maxAge', life));
  }

  get expires(): Date | null {
    const left = this.maxAge;
    return left === null ? null : new Date(Date.now() + left);
  }

  set expires(at: Date | null | false) {
    if (at !== null && at !== false && !(at instanceof Date)) {
      throw new SessionArgumentError(
        'request.session.cookie.expires',
        `must be a Date, null or false; got ${typeof at}. Write cookie.maxAge = '30d' for a length of time.`,
      );
    }
    if (at === null || at === false) {
      this.#rules.setCookieLife(this.#session(), null);
      return;
    }
    checkLife('expires', Math.max(0, at.getTime() - Date.now()));
    this.#rules.setCookieEnd(this.#session(), at.getTime());
  }

  get path(): string {
    return this.#rules.options.cookie.path;
  }

  get domain(): string | undefined {
    return this.#rules.options.cookie.domain;
  }

  get httpOnly(): boolean {
    return this.#rules.options.cookie.httpOnly;
  }

  get secure(): boolean {
    return this.#rules.options.cookie.secure;
  }

  get sameSite(): string {
    return this.#rules.options.cookie.sameSite;
  }

  get partitioned(): boolean {
    return this.#rules.options.cookie.partitioned;
  }
}

function checkLife(name: string, life: number | string): number {
  return durationArgument(`request.session.cookie.${name}`, life, TOKEN_LIFE);
}

function isReserved(key: string | symbol): boolean {
  return typeof key === 'string' && RESERVED.has(key);
}

function visibleKeys(fields: DataFields): (string | symbol)[] {
  return Reflect.ownKeys(fields).filter((key) => !isReserved(key));
}

/** @throws {SessionArgumentError} */
function refuseReserved(key: string | symbol): void {
  if (!isReserved(key)) return;
  throw new SessionArgumentError(
    `request.session.${String(key)}`,
    'is a name of the session itself and cannot be a field. Choose another name for the field.',
  );
}

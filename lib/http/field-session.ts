import type { ActiveSession } from '../core/active-session.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import type { RequestSession } from './request-session.js';
import { TrackedPromise } from './tracked-promise.js';

/** As in Node: an error or null first, then the value. */
export type FieldCallback<V = unknown> = (error: unknown, value?: V) => void;

type Fields = Record<string, unknown>;

/**
 * The session of one request, field by field, for code without Nest's handlers. Every method counts as use of the
 * session, and writing methods write at once. They return promises, or take a callback instead. The response waits for
 * what has been begun; an error that nobody takes becomes the response.
 *
 * A visitor without a session gets one, and its cookie, with the first `set`. Errors are those of `ActiveSession`, and a
 * `ForbiddenException` where another site caused the request (option `csrf`).
 *
 * @publicApi
 */
export class FieldSession {
  /** Operations run one after another, in the order of the calls, whether anybody awaits them or not. */
  #last: Promise<unknown> = Promise.resolve();

  /** @internal made by `HttpSessionService` */
  constructor(private readonly held: RequestSession) {}

  /** The value of a field; undefined when absent. Without a field it only counts as use. */
  get(): Promise<undefined>;
  get(key: string): Promise<unknown>;
  get(key: string, callback: FieldCallback): void;
  /** The same as `getAll(callback)`. */
  get(callback: FieldCallback<Fields>): void;
  get(key?: string | FieldCallback<Fields>, callback?: FieldCallback): Promise<unknown> | void {
    if (typeof key === 'function') return this.getAll(key);
    if (key === undefined) return this.#run(async () => undefined, callback);
    checkKey(key);
    return this.#run(
      async (session) => (session.destroyedHere ? undefined : readCopy(session, key)),
      callback,
    );
  }

  /** All fields, as an object of their own. Without a session: an empty one. */
  getAll(): Promise<Fields>;
  getAll(callback: FieldCallback<Fields>): void;
  getAll(callback?: FieldCallback<Fields>): Promise<Fields> | void {
    return this.#run(async (session) => (session.destroyedHere ? {} : session.snapshot()), callback);
  }

  /** Writes a field; without a value, null. */
  set(key: string, value?: unknown): Promise<void>;
  set(key: string, callback: FieldCallback<void>): void;
  set(key: string, value: unknown, callback: FieldCallback<void>): void;
  set(key: string, ...rest: unknown[]): Promise<void> | void {
    checkKey(key);
    const last = rest.at(-1);
    const callback =
      typeof last === 'function' || rest.length > 1 ? (rest.pop() as FieldCallback<void>) : undefined;
    const [value = null] = rest;
    return this.#run((session) => session.set(key, value), callback, true);
  }

  /** Removes a field; without one, **all** of them, as `delAll`. */
  del(key?: string): Promise<void>;
  del(key: string, callback: FieldCallback<void>): void;
  del(callback: FieldCallback<void>): void;
  del(key?: string | FieldCallback<void>, callback?: FieldCallback<void>): Promise<void> | void {
    if (typeof key === 'function') return this.#delAll(key);
    if (key === undefined) return this.#delAll(callback);
    checkKey(key);
    return this.#run(
      async (session) => {
        if (session.isStored) await session.delete(key);
        else await this.held.beforeStoring(); // there may be one that it is not known of
      },
      callback,
      true,
    );
  }

  /** Removes all fields; the session itself lives on. */
  delAll(): Promise<void>;
  delAll(callback: FieldCallback<void>): void;
  delAll(callback?: FieldCallback<void>): Promise<void> | void {
    return this.#delAll(callback);
  }

  /** Ends the session, and removes its cookie from the client. */
  destroy(): Promise<void>;
  destroy(callback: FieldCallback<void>): void;
  destroy(callback?: FieldCallback<void>): Promise<void> | void {
    return this.#run((session) => session.destroy(), callback, true);
  }

  #delAll(callback: FieldCallback<void> | undefined): Promise<void> | void {
    return this.#run((session) => session.clear(), callback, true);
  }

  #run<V>(
    operation: (session: ActiveSession<Fields>) => Promise<V>,
    callback: FieldCallback<V> | undefined,
    writes = false,
  ): Promise<V> | void {
    if (callback !== undefined && typeof callback !== 'function')
      throw new SessionArgumentError(
        'callback',
        `must be a function; got ${typeof callback}. Drop it for a promise.`,
      );
    const running = this.#last.then(() => this.#perform(operation, writes));
    this.#last = running.catch(() => undefined); // whoever called takes it
    if (callback === undefined) {
      const promise = TrackedPromise.of(running);
      this.held.waitFor(running, () => promise.taken);
      return promise;
    }
    this.held.waitFor(running, () => true);
    // Outside the promise: what the callback throws is thrown as from any other callback.
    running.then(
      (value) => process.nextTick(callback, null, value),
      (error: unknown) => process.nextTick(callback, error),
    );
  }

  async #perform<V>(operation: (session: ActiveSession<Fields>) => Promise<V>, writes: boolean): Promise<V> {
    const session = (await this.held.obtain(false)) as ActiveSession<Fields>;
    if (writes) this.held.checkOrigin();
    const value = await operation(session);
    // A write has prolonged it; a request that lives long may read again after the first look did.
    if (!writes && session.source !== 'stale') await session.touch();
    return value;
  }
}

/** What is read is the caller's own: only `set` and its like write. */
function readCopy(session: ActiveSession<Fields>, key: string): unknown {
  const value = session.get(key);
  return typeof value === 'object' && value !== null ? session.snapshot()[key] : value;
}

function checkKey(key: unknown): void {
  if (typeof key !== 'string')
    throw new SessionArgumentError('key', `must be a string; got ${key === null ? 'null' : typeof key}.`);
}

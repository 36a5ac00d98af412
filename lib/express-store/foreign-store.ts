import { SessionArgumentError, SessionStoreUnavailableError } from '../index.js';

/** How express-session's stores answer. */
export type StoreCallback<R = unknown> = (error?: unknown, result?: R) => void;

/**
 * A store as express-session defines it, as far as it is used here. Structural, so that neither express-session nor its
 * types are needed: a `Store` of it is one.
 *
 * @publicApi
 */
export interface ExpressStore {
  // oxlint-disable typescript/no-explicit-any -- each store has its own idea of a session; what comes is checked
  get(sid: string, callback: (error: any, session?: any) => void): unknown;
  set(sid: string, session: any, callback?: (error?: any) => void): unknown;
  destroy(sid: string, callback?: (error?: any) => void): unknown;
  all?(callback: (error: any, sessions?: any) => void): unknown;
  clear?(callback?: (error?: any) => void): unknown;
  on?(event: string, listener: (...args: any[]) => void): unknown;
  off?(event: string, listener: (...args: any[]) => void): unknown;
  // oxlint-enable typescript/no-explicit-any
}

/** A session as such stores keep it: fields of the app, and one named `cookie`. */
export type ExpressFields = Record<string, unknown>;

type Method = 'get' | 'set' | 'destroy' | 'all' | 'clear';

/** Promises instead of callbacks, and one form for the many that stores answer in. */
export class ForeignStore {
  readonly name: string;
  #isConnected = true;
  readonly #onDisconnect = (): void => void (this.#isConnected = false);
  readonly #onConnect = (): void => void (this.#isConnected = true);

  /**
   * @param timeoutMs for each call; without it, whoever asks sees to that
   * @throws {SessionArgumentError} unless it is a store
   */
  constructor(
    argument: string,
    private readonly store: ExpressStore,
    private readonly timeoutMs?: number,
  ) {
    for (const method of ['get', 'set', 'destroy'] as const) {
      if (typeof (store as Partial<ExpressStore> | null | undefined)?.[method] === 'function') continue;
      throw new SessionArgumentError(
        argument,
        `must be a store of express-session, with get, set and destroy; got ${nameOf(store)}, without ${method}(). ` +
          'Hand over the store itself, e.g. new RedisStore({ client }).',
      );
    }
    this.name = nameOf(store);
    store.on?.('disconnect', this.#onDisconnect);
    store.on?.('connect', this.#onConnect);
  }

  /** Stops listening to the store, which stays open: it is not ours. */
  release(): void {
    this.store.off?.('disconnect', this.#onDisconnect);
    this.store.off?.('connect', this.#onConnect);
  }

  has(method: Method): boolean {
    return typeof this.store[method] === 'function';
  }

  async get(sid: string): Promise<ExpressFields | null> {
    const found = await this.#call('get', sid).catch((error: unknown) => {
      // How stores over files say that there is none; express-session takes it as that, too.
      if ((error as { code?: unknown } | null)?.code === 'ENOENT') return null;
      throw error;
    });
    return asFields(found);
  }

  async set(sid: string, session: ExpressFields): Promise<void> {
    await this.#call('set', sid, session);
  }

  async destroy(sid: string): Promise<void> {
    await this.#call('destroy', sid);
  }

  async clear(): Promise<void> {
    await this.#call('clear');
  }

  /** Stores answer with an array, or with an object by sid. */
  async all(): Promise<ExpressFields[]> {
    const found = await this.#call('all');
    const list: unknown[] = Array.isArray(found) ? found : Object.values((found as object | null) ?? {});
    return list.map(asFields).filter((fields) => fields !== null);
  }

  /** @throws {SessionArgumentError} naming store and method, if it has none of that name */
  #call(method: Method, ...args: unknown[]): Promise<unknown> {
    if (!this.has(method)) {
      const detail = `(${this.name}) has no method ${method}(), which this needs. Use a store that has one.`;
      return Promise.reject(new SessionArgumentError('store', detail));
    }
    if (!this.#isConnected) {
      const detail = `${this.name} says that it is disconnected`;
      return Promise.reject(new SessionStoreUnavailableError(`${method} a session`, detail, false));
    }
    let timer: NodeJS.Timeout | undefined;
    return new Promise((resolve, reject) => {
      const callback: StoreCallback = (error, result) => {
        if (error === undefined || error === null) resolve(result);
        else reject(error as Error);
      };
      if (this.timeoutMs !== undefined) {
        const detail = `no answer of ${this.name} within ${this.timeoutMs} ms`;
        const error = new SessionStoreUnavailableError(`${method} a session`, detail, method !== 'get');
        timer = setTimeout(reject, this.timeoutMs, error);
      }
      const call = this.store[method] as (...args: unknown[]) => unknown;
      // Some are async beneath the callback: what such a one rejects with must not go unheard.
      Promise.resolve(call.call(this.store, ...args, callback)).catch(reject);
    }).finally(() => clearTimeout(timer));
  }
}

function nameOf(store: unknown): string {
  if (typeof store !== 'object' || store === null) return String(store);
  return (store as { constructor?: { name?: string } }).constructor?.name || 'an object';
}

function asFields(value: unknown): ExpressFields | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as ExpressFields)
    : null;
}

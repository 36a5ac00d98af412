import { SessionArgumentError } from '../errors/caller.errors.js';
import { SessionGoneError } from '../errors/state.errors.js';
import type { ActiveSession } from './active-session.js';
import type { DataFields } from './session-data.js';
import type { SessionService } from './session.service.js';

/**
 * Sessions field by field, by token, without HTTP: what generic-session asks of a store. It writes as `SessionService`
 * does, so over any store, with any codec, nothing is lost to parallel writers and near caches hear of it. Inject it, or
 * make one: `new FieldStore(sessions)`.
 *
 * Every method but `deleteAll` counts as use: the session lives on for its own `idleTimeout`, which `create` and
 * `regenerate` set. Methods that write do that at once, those that read (and `extend`) at most once per `touchInterval`.
 *
 * Tokens that are unknown, expired or malformed: reading finds nothing, and writing rejects with `SessionGoneError`. No
 * method makes a session: use `SessionService.create`. All reject with `SessionStoreUnavailableError` when the store does
 * not answer.
 *
 * @publicApi
 */
export class FieldStore {
  readonly #sessions: SessionService<DataFields>;

  constructor(sessions: SessionService<object>) {
    this.#sessions = sessions as SessionService<DataFields>;
  }

  /** The value of a field, the caller's own; undefined when there is no such field or session. */
  async getField(token: unknown, key: string): Promise<unknown> {
    checkKey(key);
    return (await this.#sessions.touch(token))?.get(key);
  }

  /** All fields, as an object of their own; null when there is no such session. */
  async getAllFields(token: unknown): Promise<Record<string, unknown> | null> {
    return (await this.#sessions.touch(token))?.snapshot() ?? null;
  }

  /**
   * Writes a field; other fields stay as they are, whoever writes them at the same time. Without a value: null.
   *
   * @throws {SessionDataError} if the value cannot be stored
   */
  async setField(token: unknown, key: string, value: unknown = null): Promise<void> {
    checkKey(key);
    await this.#sessions.update(token, { [key]: value });
  }

  /** Removes a field; a session that has none of that name stays as it is. */
  async deleteField(token: unknown, key: string): Promise<void> {
    checkKey(key);
    await (await this.#mustGet(token)).delete(key);
  }

  /** Removes all fields; the session itself lives on, no longer than it would have. */
  async deleteAll(token: unknown): Promise<void> {
    await this.#sessions.replace(token, {}, { keepExpiry: true });
  }

  /** Counts as use. False when there is no such session. */
  async extend(token: unknown): Promise<boolean> {
    return (await this.#sessions.touch(token)) !== null;
  }

  async #mustGet(token: unknown): Promise<ActiveSession<DataFields>> {
    const session = await this.#sessions.get(token);
    if (session === null) throw new SessionGoneError(null);
    return session;
  }
}

function checkKey(key: unknown): void {
  if (typeof key !== 'string')
    throw new SessionArgumentError('key', `must be a string; got ${key === null ? 'null' : typeof key}.`);
}

import type { SessionRecord } from '../index.js';
import type { SessionParts } from './session-fields.js';

/** What a session object was made from, so that a save knows what it changes. Shows neither in JSON nor in logs. */
export class LoadedSession {
  #record: SessionRecord;
  #parts: SessionParts;

  constructor(record: SessionRecord, parts: SessionParts) {
    this.#record = record;
    this.#parts = parts;
  }

  get record(): SessionRecord {
    return this.#record;
  }

  /** The session as the library's object had it when it was loaded or last saved. */
  get parts(): SessionParts {
    return this.#parts;
  }

  update(record: SessionRecord, parts: SessionParts): void {
    this.#record = record;
    this.#parts = parts;
  }

  toJSON(): undefined {
    return undefined;
  }
}

/**
 * The property by which a session of @fastify/session, which copies what it is given and tells nobody, finds its origin
 * again. Sessions of express-session do without.
 */
export const ORIGIN = '~loadedFrom';

/** What the store knows of a session object. */
export class LoadedSessions {
  readonly #byObject = new WeakMap<object, LoadedSession>();

  add(session: object, loaded: LoadedSession): void {
    this.#byObject.set(session, loaded);
  }

  /** Undefined for an object that was not loaded from, or saved in, this store under this id. */
  find(session: object, id: string): LoadedSession | undefined {
    const origin = this.#byObject.get(session) ?? (session as Record<string, unknown>)[ORIGIN];
    return origin instanceof LoadedSession && origin.record.id === id ? origin : undefined;
  }
}

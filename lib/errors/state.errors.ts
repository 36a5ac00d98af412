import { SessionError } from './session.error.js';

/**
 * A write found no session: destroyed, expired, or replaced by `regenerate`. The record stays gone.
 *
 * @publicApi
 */
export class SessionGoneError extends SessionError {
  override readonly name = 'SessionGoneError';

  /** @param id public id, or null when the token was malformed */
  constructor(readonly id: string | null) {
    super(
      'SESSION_GONE',
      `Session ${id ?? '(malformed token)'} does not exist any more: it was destroyed, expired or regenerated. ` +
        'Nothing was written; ask the user to sign in again.',
    );
  }
}

/**
 * Other writers changed the session at every try. Nothing of this change was written.
 *
 * @publicApi
 */
export class SessionConflictError extends SessionError {
  override readonly name = 'SessionConflictError';

  constructor(
    readonly id: string,
    attempts: number,
  ) {
    super(
      'SESSION_CONFLICT',
      `Session ${id} was changed by other processes at each of ${attempts} attempts to write it. ` +
        'Try again, and keep counters that many requests share out of the session.',
    );
  }
}

/**
 * The store did not answer, or refused. This never means "logged out": the HTTP layer answers 503.
 *
 * @publicApi
 */
export class SessionStoreUnavailableError extends SessionError {
  override readonly name = 'SessionStoreUnavailableError';

  /**
   * @param operation what was being done, e.g. `get`
   * @param outcomeUnknown true when a write was under way and may or may not have been applied
   */
  constructor(
    readonly operation: string,
    detail: string,
    readonly outcomeUnknown: boolean,
    options?: ErrorOptions,
  ) {
    super(
      'SESSION_STORE_UNAVAILABLE',
      `The session store could not ${operation}: ${detail}. ` +
        (outcomeUnknown
          ? 'It is unknown whether the write was applied; read the session again before repeating it.'
          : 'Nothing was changed; try again when the store is reachable.'),
      options,
    );
  }
}

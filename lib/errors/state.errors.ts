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
 * Only with the options `maxSessionsPerUser` and `onLimit: 'reject'`: the user has as many live sessions as they may
 * have. Nothing was created or changed. Answered as 409.
 *
 * @publicApi
 */
export class SessionLimitError extends SessionError {
  override readonly name = 'SessionLimitError';

  constructor(
    readonly userId: string,
    readonly limit: number,
  ) {
    super(
      'SESSION_LIMIT',
      `The user has ${limit} live sessions, as many as "maxSessionsPerUser" allows. End one of them first ` +
        "(SessionRegistry.kill), or set onLimit: 'evict-oldest'.",
    );
  }
}

/**
 * Only with the option `rotateGrace`: the token has been replaced a moment ago, and serves for reads only. Nothing was
 * written. Answered as 409: the client has the new token by now, or gets it with the answer to its parallel request.
 *
 * @publicApi
 */
export class SessionRotatedError extends SessionError {
  override readonly name = 'SessionRotatedError';

  /** @param id public id of the session under its new token */
  constructor(readonly id: string) {
    super(
      'SESSION_ROTATED',
      `Session ${id} was written to by its previous token, which only reads after a rotation (option "rotateGrace"). ` +
        'Repeat the request with the new token.',
    );
  }
}

/**
 * The store did not answer, or refused. This never means "logged out": the HTTP layer answers 503.
 *
 * @publicApi
 */
export class SessionStoreUnavailableError extends SessionError {
  override readonly name: string = 'SessionStoreUnavailableError';

  /**
   * @param operation what was being done, e.g. `get`
   * @param outcomeUnknown true when a write was under way and may or may not have been applied
   */
  constructor(
    readonly operation: string,
    detail: string,
    readonly outcomeUnknown: boolean,
    options: ErrorOptions & { code?: 'SESSION_NOT_REPLICATED'; advice?: string } = {},
  ) {
    const {
      code = 'SESSION_STORE_UNAVAILABLE',
      advice = outcomeUnknown
        ? 'It is unknown whether the write was applied; read the session again before repeating it.'
        : 'Nothing was changed; try again when the store is reachable.',
    } = options;
    super(code, `The session store could not ${operation}: ${detail}. ${advice}`, options);
  }
}

/**
 * Only with the option `waitForReplicas`: sessions have ended on the master, but not enough replicas confirmed it in
 * time. If the master is lost now, they may come back. Answered as 503, like its base.
 *
 * @publicApi
 */
export class SessionNotReplicatedError extends SessionStoreUnavailableError {
  override readonly name = 'SessionNotReplicatedError';

  /**
   * @param ended ids of the sessions that were alive and have ended
   * @param confirmed number of replicas that have it
   */
  constructor(
    readonly ended: readonly string[],
    readonly confirmed: number,
    readonly wanted: number,
    readonly waitedMs: number,
    cause?: unknown,
  ) {
    super(
      'make sure of the end of a session',
      `${confirmed} of ${wanted} replicas (option "waitForReplicas") confirmed it within ${waitedMs} ms`,
      true,
      {
        ...(cause !== undefined && { cause }),
        code: 'SESSION_NOT_REPLICATED',
        advice: 'It has ended on the master; end it again when the replicas are back, to be sure.',
      },
    );
  }

  /** One error for both. */
  and(other: SessionNotReplicatedError | undefined): SessionNotReplicatedError {
    if (other === undefined) return this;
    const confirmed = Math.min(this.confirmed, other.confirmed);
    const ended = [...other.ended, ...this.ended];
    return new SessionNotReplicatedError(ended, confirmed, this.wanted, this.waitedMs, this.cause);
  }
}

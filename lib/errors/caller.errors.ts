import { SessionError } from './session.error.js';

/**
 * A module option is wrong. Thrown while the app boots, so that a mistake never waits for the first request.
 *
 * @publicApi
 */
export class SessionOptionsError extends SessionError {
  override readonly name = 'SessionOptionsError';

  /** @param option path of the option as the user writes it, e.g. `cache.maxEntries` */
  constructor(
    readonly option: string,
    readonly detail: string,
    options?: ErrorOptions,
  ) {
    super('SESSION_OPTIONS', `SessionModule option "${option}" ${detail}`, options);
  }
}

/**
 * A method was called with an argument it can never accept (not: an unknown token, which is just `null`).
 *
 * @publicApi
 */
export class SessionArgumentError extends SessionError {
  override readonly name = 'SessionArgumentError';

  constructor(
    readonly argument: string,
    detail: string,
  ) {
    super('SESSION_ARGUMENT', `Argument "${argument}" ${detail}`);
  }
}

/**
 * Session data cannot be stored as it is: a value the codec cannot keep, or more bytes than `maxDataBytes`.
 * Nothing was written. The message names the field, never its value.
 *
 * @publicApi
 */
export class SessionDataError extends SessionError {
  override readonly name = 'SessionDataError';

  /** @param field path inside `data`, e.g. `cart.onChange`; empty when it is the data as a whole */
  constructor(
    readonly field: string,
    detail: string,
  ) {
    super(
      'SESSION_DATA',
      field === '' ? `Session data ${detail}` : `Session data field "${field}" ${detail}`,
    );
  }
}

/**
 * `create(data, { token })` with a token that already has a session. The existing session is untouched.
 *
 * @publicApi
 */
export class SessionTokenTakenError extends SessionError {
  override readonly name = 'SessionTokenTakenError';

  constructor(readonly id: string) {
    super(
      'SESSION_TOKEN_TAKEN',
      `The given token already has a session (${id}); destroy it first, or let create() generate a token.`,
    );
  }
}

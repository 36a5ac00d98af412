/** Stable codes to switch on; `message` is for people and ends with what to do. */
export type SessionErrorCode =
  | 'SESSION_OPTIONS'
  | 'SESSION_ARGUMENT'
  | 'SESSION_DATA'
  | 'SESSION_GONE'
  | 'SESSION_CONFLICT'
  | 'SESSION_ROTATED'
  | 'SESSION_LIMIT'
  | 'SESSION_TOKEN_TAKEN'
  | 'SESSION_STORE_UNAVAILABLE'
  | 'SESSION_NOT_REPLICATED';

/**
 * Base of every error this package throws. No message, cause or property of one holds a token or session data;
 * sessions are named by their public id.
 *
 * @publicApi
 */
export class SessionError extends Error {
  override readonly name: string = 'SessionError';

  constructor(
    readonly code: SessionErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

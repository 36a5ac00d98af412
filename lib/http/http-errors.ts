import {
  ConflictException,
  ServiceUnavailableException,
  UnauthorizedException,
  type HttpException,
} from '@nestjs/common';
import {
  SessionConflictError,
  SessionGoneError,
  SessionLimitError,
  SessionRotatedError,
  SessionStoreUnavailableError,
} from '../errors/state.errors.js';

/** Errors that are an answer to the client and not a mistake in the app. */
export type AnswerableError =
  | SessionStoreUnavailableError
  | SessionGoneError
  | SessionConflictError
  | SessionRotatedError
  | SessionLimitError;

export function isAnswerable(error: unknown): error is AnswerableError {
  return (
    error instanceof SessionStoreUnavailableError ||
    error instanceof SessionGoneError ||
    error instanceof SessionConflictError ||
    error instanceof SessionRotatedError ||
    error instanceof SessionLimitError
  );
}

/** For a lookup that failed: the 503 of a store that cannot tell, anything else as it is. */
export function answerOfLookup(error: unknown): unknown {
  return error instanceof SessionStoreUnavailableError ? toHttpException(error) : error;
}

/**
 * The answer: 503 when the store could not tell, 401 when the session has ended, 409 when others kept changing it, or have just
 * replaced the token. The
 * bodies are generic; the reason stands in `cause`, for exception filters and logs.
 */
export function toHttpException(cause: AnswerableError): HttpException {
  if (cause instanceof SessionStoreUnavailableError) {
    return new ServiceUnavailableException('Try again later', { cause });
  }
  if (cause instanceof SessionGoneError) return new UnauthorizedException(undefined, { cause });
  if (cause instanceof SessionLimitError) return new ConflictException('Too many sessions', { cause });
  return new ConflictException('Try again', { cause });
}

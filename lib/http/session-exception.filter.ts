import { Catch, type ArgumentsHost } from '@nestjs/common';
import { BaseExceptionFilter } from '@nestjs/core';
import {
  SessionConflictError,
  SessionGoneError,
  SessionLimitError,
  SessionRotatedError,
  SessionStoreUnavailableError,
} from '../errors/state.errors.js';
import { toHttpException, type AnswerableError } from './http-errors.js';

/**
 * What the guard answers, for the same errors thrown later, by a handler's own calls: a store that cannot answer is
 * 503, a session that ended meanwhile 401, a session that others kept changing, or whose token was just replaced, 409, as is a
 * user's session too many. The bodies are Nest's own and hold
 * no details. Without it Nest answers 500.
 *
 * ```ts
 * providers: [{ provide: APP_FILTER, useClass: SessionExceptionFilter }]
 * ```
 *
 * For HTTP only.
 *
 * @publicApi
 */
@Catch(
  SessionStoreUnavailableError,
  SessionGoneError,
  SessionConflictError,
  SessionRotatedError,
  SessionLimitError,
)
export class SessionExceptionFilter extends BaseExceptionFilter {
  override catch(error: AnswerableError, host: ArgumentsHost): void {
    super.catch(toHttpException(error), host);
  }
}

import {
  Catch,
  Logger,
  ServiceUnavailableException,
  UnauthorizedException,
  type ArgumentsHost,
  type ExceptionFilter,
} from '@nestjs/common';
import type { Request, Response } from 'express';
import { SessionGoneError, SessionStoreUnavailableError } from 'nestjs-sessionkit';
import { unavailablePage } from './page.js';

/**
 * What a request gets when its session is missing, or cannot be looked up. `SessionGuard` throws the HTTP exceptions;
 * the other two come from the handlers, when the session ends or the store fails after the guard. (If that happens
 * after the handler, at the save before the response, the package itself answers 401 or 503 as JSON.)
 *
 * Clients get 401 or 503 as JSON. Browsers go to the sign-in page, or are told that it is not their fault. Neither
 * touches the cookie: the session may be alive, or the cookie a newer one than this request's.
 */
@Catch(UnauthorizedException, SessionGoneError, ServiceUnavailableException, SessionStoreUnavailableError)
export class SessionErrorsFilter implements ExceptionFilter<Error> {
  readonly #logger = new Logger(SessionErrorsFilter.name);

  catch(error: Error, host: ArgumentsHost): void {
    const request = host.switchToHttp().getRequest<Request>();
    const response = host.switchToHttp().getResponse<Response>();
    const isBrowser = request.accepts(['json', 'html']) === 'html';

    if (error instanceof UnauthorizedException || error instanceof SessionGoneError) {
      if (isBrowser) response.redirect(303, '/');
      else response.status(401).json(new UnauthorizedException().getResponse());
      return;
    }
    // The guard keeps the store's error in `cause`. The log has the reason, the body says nothing of it.
    this.#logger.warn(error.cause instanceof Error ? error.cause.message : error.message);
    if (isBrowser) response.status(503).type('html').send(unavailablePage());
    else response.status(503).json(new ServiceUnavailableException('Try again later').getResponse());
  }
}

import {
  Catch,
  Logger,
  ServiceUnavailableException,
  UnauthorizedException,
  type ArgumentsHost,
  type ExceptionFilter,
} from '@nestjs/common';
import type { Request, Response } from 'express';
import { SessionGoneError, SessionStoreUnavailableError, sessionOf } from 'nestjs-sessionkit';
import { confirmPage } from './admin-page.js';
import { unavailablePage } from './page.js';

/**
 * What a request gets when its session is missing, or cannot be looked up. `SessionGuard` throws the HTTP exceptions;
 * the other two come from the handlers, when the session ends or the store fails after the guard. (If that happens
 * after the handler, at the save before the response, the package itself answers 401 or 503 as JSON.)
 *
 * Clients get 401 or 503 as JSON. Browsers go to the sign-in page, or are told that it is not their fault; those that
 * signed in too long ago for what they want (`@RecentLogin()`) are asked whether it is they. None of this touches the
 * cookie: the session may be alive, or the cookie a newer one than this request's.
 */
@Catch(UnauthorizedException, SessionGoneError, ServiceUnavailableException, SessionStoreUnavailableError)
export class SessionErrorsFilter implements ExceptionFilter<Error> {
  readonly #logger = new Logger(SessionErrorsFilter.name);

  catch(error: Error, host: ArgumentsHost): void {
    const request = host.switchToHttp().getRequest<Request>();
    const response = host.switchToHttp().getResponse<Response>();
    const isBrowser = request.accepts(['json', 'html']) === 'html';

    if (error instanceof UnauthorizedException || error instanceof SessionGoneError) {
      const code = codeOf(error);
      const session = sessionOf(request);
      if (code !== undefined && session) {
        response.status(401);
        if (isBrowser) response.type('html').send(confirmPage(code, session.csrfToken()));
        else response.json((error as UnauthorizedException).getResponse());
        return;
      }
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

/** A 401 that has a code is one that asks for more than a session; the guard's other one has none. */
function codeOf(error: Error): string | undefined {
  const body = error instanceof UnauthorizedException ? error.getResponse() : undefined;
  return typeof body === 'object' && 'code' in body && typeof body.code === 'string' ? body.code : undefined;
}

import {
  ForbiddenException,
  Inject,
  Injectable,
  type CanActivate,
  type ExecutionContext,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import { isCsrfTokenOf } from '../core/csrf-token.js';
import { isUnsafe } from './csrf.js';
import { answerOfLookup } from './http-errors.js';
import { mustBeHttp, type HttpRequest } from './http-request.js';
import { HttpSessions } from './http-sessions.js';
import { fallbackOf, readPolicy } from './route-policy.js';

/**
 * Lets unsafe requests (`POST` and the like) through only with the session's own token, `session.csrfToken()`, in the
 * header `X-CSRF-Token` or the body's field `_csrf`; else 403. On top of the check of `Sec-Fetch-Site` and `Origin`, for
 * browsers that send neither. Sessions that do not come from a cookie need none; `@SkipCsrf()` exempts a route.
 *
 * @publicApi
 */
@Injectable()
export class CsrfGuard implements CanActivate {
  constructor(
    @Inject(HttpSessions) private readonly http: HttpSessions,
    @Inject(Reflector) private readonly reflector: Reflector,
  ) {}

  async canActivate(context: ExecutionContext): Promise<boolean> {
    const { request, response } = mustBeHttp(context, 'CsrfGuard');
    const policy = readPolicy(this.reflector, context);
    const { skipCsrf, strict } = policy;
    if (skipCsrf || !isUnsafe(request)) return true;
    const held = this.http.of(request, response);
    let session;
    try {
      session = await held.find(strict, fallbackOf(policy, this.http.onStoreUnavailable));
    } catch (error) {
      throw answerOfLookup(error);
    }
    if (!held.isAmbient) return true;
    if (session !== null && isCsrfTokenOf(session.token, sentWith(request))) return true;
    // The token may well be right.
    if (held.unreachable !== undefined) throw answerOfLookup(held.unreachable);
    throw new ForbiddenException('The CSRF token is missing or wrong');
  }
}

function sentWith(request: HttpRequest & { body?: unknown }): unknown {
  const { body, headers } = request;
  const header = headers['x-csrf-token'];
  if (header !== undefined) return header;
  return typeof body === 'object' && body !== null && Object.hasOwn(body, '_csrf')
    ? (body as { _csrf: unknown })._csrf
    : undefined;
}

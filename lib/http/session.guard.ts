import {
  Inject,
  Injectable,
  UnauthorizedException,
  type CanActivate,
  type ExecutionContext,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { ActiveSession } from '../core/active-session.js';
import { answerOfLookup } from './http-errors.js';
import { exchangeOf, mustBeHttp, type HttpRequest, type HttpResponse } from './http-request.js';
import { HttpSessions } from './http-sessions.js';
import type { RequestSession } from './request-session.js';
import { checkRecentLogin, fallbackOf, readPolicy, type RoutePolicy } from './route-policy.js';

/**
 * Lets a request through if it carries the token of a live session.
 *
 * No session: 401. An unsafe request that another site caused: 403. A store that cannot answer: 503, never "signed out"
 * and never "let in". All with a generic body. For `@UseGuards(SessionGuard)`, or for the whole app:
 * `{ provide: APP_GUARD, useExisting: SessionGuard }`; see `@OptionalSession()` and `@PublicSession()` for the exceptions.
 * A visitor for whom something was stored has a session too: `@RequireUser()` asks for one that is somebody's.
 * A request with a session counts as use of it (a touch, in the background, at most once per `touchInterval`).
 *
 * @publicApi
 */
@Injectable()
export class SessionGuard implements CanActivate {
  constructor(
    @Inject(HttpSessions) private readonly http: HttpSessions,
    @Inject(Reflector) private readonly reflector: Reflector,
  ) {}

  // Answers without a promise where the near cache does: that is nearly every request.
  canActivate(context: ExecutionContext): boolean | Promise<boolean> {
    const policy = readPolicy(this.reflector, context);
    if (policy.access === 'public') return true;
    const request = this.getRequest(context);
    const own = exchangeOf(context)?.request;
    const held = this.http.of(request, this.getResponse(context), own);
    const found = held.find(policy.strict, fallbackOf(policy, held.services.onStoreUnavailable));
    if (!(found instanceof Promise)) return this.#decide(context, own, policy, held, found);
    return found.then(
      (session) => this.#decide(context, own, policy, held, session),
      (error: unknown) => {
        throw answerOfLookup(error);
      },
    );
  }

  /** Where the token is read. Override it for transports in which that lies elsewhere. */
  protected getRequest(context: ExecutionContext): HttpRequest {
    return mustBeHttp(context, 'SessionGuard').request;
  }

  /** Override it together with `getRequest`; undefined where nothing is answered by HTTP. */
  protected getResponse(context: ExecutionContext): HttpResponse | undefined {
    return exchangeOf(context)?.response;
  }

  /** What is thrown when the route needs a session and the request has none. Override it for another answer. */
  protected onDenied(_context: ExecutionContext): Error {
    return new UnauthorizedException();
  }

  #decide(
    context: ExecutionContext,
    own: HttpRequest | undefined,
    policy: RoutePolicy,
    held: RequestSession,
    session: ActiveSession<object> | null,
  ): boolean {
    const { access, skipCsrf } = policy;
    const lacks = session === null ? access !== 'optional' : access === 'user' && session.userId === null;
    // Who cannot be looked up is not thereby signed out.
    if (held.unreachable !== undefined && (lacks || policy.recentLogin !== undefined))
      throw answerOfLookup(held.unreachable);
    if (lacks) throw this.onDenied(context);
    checkRecentLogin(policy, session);
    if (skipCsrf) held.exemptFromOriginCheck();
    else if (own !== undefined) held.checkOrigin(own);
    return true;
  }
}

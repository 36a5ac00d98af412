import {
  Inject,
  Injectable,
  UnauthorizedException,
  type CanActivate,
  type ExecutionContext,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { ActiveSession } from '../core/active-session.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import { answerOfLookup } from './http-errors.js';
import { exchangeOf, mustBeHttp, nodeRequestOf, type HttpRequest } from './http-request.js';
import { HttpSessions } from './http-sessions.js';
import { keep, keptOf } from './kept.js';
import type { RequestSession } from './request-session.js';
import { checkRecentLogin, fallbackOf, readPolicy, type RoutePolicy } from './route-policy.js';

/**
 * Stands on every class that has a parameter with `@Session()`, and lets all through: it tells the parameter where
 * sessions are found. A parameter decorator has no access to providers. Its pipe could be one, but pipes are awaited,
 * which costs a short request more than all that is done here.
 *
 * @internal
 */
@Injectable()
export class SessionParameterGuard implements CanActivate {
  constructor(@Inject(HttpSessions) private readonly http: HttpSessions) {}

  canActivate(context: ExecutionContext): boolean {
    const exchange = exchangeOf(context);
    if (exchange !== null) keep(nodeRequestOf(exchange.request)).sessions = this.http;
    return true;
  }
}

const reflector = new Reflector();

/**
 * What `@Session()` stands for: the visitor's session, or a field of its data. Without a promise where the near cache
 * answers.
 *
 * @throws what the client is to be answered
 */
export function sessionParameter(key: string | undefined, context: ExecutionContext): unknown {
  const { request, response } = mustBeHttp(context, '@Session()');
  const kept = keptOf(nodeRequestOf(request));
  const http = kept?.sessions;
  if (http === undefined) {
    throw new SessionArgumentError(
      '@Session()',
      `on ${context.getClass().name}.${context.getHandler().name} is used where Nest runs no guards. Inject HttpSessionService there.`,
    );
  }
  const known = kept!.session; // nearly always: the guard has looked
  const held = known?.services === http ? known : http.of(request, response);
  const policy = readPolicy(reflector, context);
  const session = held.obtain(policy.strict, fallbackOf(policy, http.onStoreUnavailable));
  if (!(session instanceof Promise)) return take(session, key, request, held, policy);
  return session.then(
    (obtained) => take(obtained, key, request, held, policy),
    (error: unknown) => {
      throw answerOfLookup(error);
    },
  );
}

function take(
  session: ActiveSession<object>,
  key: string | undefined,
  request: HttpRequest,
  held: RequestSession,
  policy: RoutePolicy,
): unknown {
  const { access, skipCsrf, recentLogin } = policy;
  // The guard asks this too, where it stands; a route must not be open only because it was forgotten.
  const lacks = access === 'user' ? session.userId === null : access === 'required' && !session.isStored;
  if (held.unreachable !== undefined && (lacks || recentLogin !== undefined))
    throw answerOfLookup(held.unreachable);
  if (lacks) throw new UnauthorizedException();
  checkRecentLogin(policy, session);
  if (skipCsrf) held.exemptFromOriginCheck();
  else held.checkOrigin(request);
  return key === undefined ? session : (session as ActiveSession<Record<string, unknown>>).get(key);
}

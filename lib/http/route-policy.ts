import { UnauthorizedException, type ExecutionContext } from '@nestjs/common';
import type { Reflector } from '@nestjs/core';
import type { ActiveSession } from '../core/active-session.js';
import type { StoreUnavailablePolicy } from '../options/session-options.interface.js';
import {
  SESSION_ACCESS,
  SESSION_ON_UNAVAILABLE,
  SESSION_RECENT_LOGIN,
  SESSION_SKIP_CSRF,
  SESSION_STRICT,
} from '../session.constants.js';

/** How a route treats a request without a session. */
export type SessionAccess = 'required' | 'optional' | 'public' | 'user';

/** What the decorators of a route say. */
export interface RoutePolicy {
  readonly target: object;
  readonly access: SessionAccess | undefined;
  readonly strict: boolean;
  readonly skipCsrf: boolean;
  /** Milliseconds; undefined: however long ago. */
  readonly recentLogin: number | undefined;
  /** undefined: as the module says. */
  readonly onStoreUnavailable: StoreUnavailablePolicy | undefined;
}

const known = new WeakMap<object, RoutePolicy>();

/** Decorators never change, and looking them up costs more than a hit of the near cache. */
export function readPolicy(reflector: Reflector, context: ExecutionContext): RoutePolicy {
  const handler = context.getHandler();
  const target = context.getClass();
  const remembered = known.get(handler);
  // A handler may be inherited by several classes.
  if (remembered !== undefined && remembered.target === target) return remembered;
  const read = <V>(key: string) => reflector.getAllAndOverride<V | undefined>(key, [handler, target]);
  const policy = {
    target,
    access: read<SessionAccess>(SESSION_ACCESS),
    strict: read<boolean>(SESSION_STRICT) === true,
    skipCsrf: read<boolean>(SESSION_SKIP_CSRF) === true,
    recentLogin: read<number>(SESSION_RECENT_LOGIN),
    onStoreUnavailable: read<StoreUnavailablePolicy>(SESSION_ON_UNAVAILABLE),
  };
  known.set(handler, policy);
  return policy;
}

/** What the route wants when the store cannot be asked: a copy is not enough where the store itself was to be. */
export function fallbackOf(
  { onStoreUnavailable, strict, recentLogin }: RoutePolicy,
  byDefault: StoreUnavailablePolicy,
): StoreUnavailablePolicy {
  const policy = onStoreUnavailable ?? byDefault;
  return policy === 'stale' && (strict || recentLogin !== undefined) ? 'deny' : policy;
}

/**
 * @throws {UnauthorizedException} with `code: 'RECENT_LOGIN_REQUIRED'`, so that clients ask for the password and not for
 *   a whole sign-in
 */
export function checkRecentLogin({ recentLogin }: RoutePolicy, session: ActiveSession<object> | null): void {
  if (recentLogin === undefined || session?.authenticatedWithin(recentLogin) === true) return;
  throw new UnauthorizedException({
    statusCode: 401,
    message: 'Recent login required',
    error: 'Unauthorized',
    code: 'RECENT_LOGIN_REQUIRED',
  });
}

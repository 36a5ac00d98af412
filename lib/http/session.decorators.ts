import { createParamDecorator, SetMetadata, UseGuards } from '@nestjs/common';
import { durationArgument } from '../core/session-timeouts.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import type { Duration, StoreUnavailablePolicy } from '../options/session-options.interface.js';
import {
  SESSION_ACCESS,
  SESSION_ON_UNAVAILABLE,
  SESSION_RECENT_LOGIN,
  SESSION_SKIP_CSRF,
  SESSION_STRICT,
} from '../session.constants.js';
import type { SessionAccess } from './route-policy.js';
import { SessionParameterGuard, sessionParameter } from './session-parameter.js';

/**
 * For routes behind `SessionGuard`, on a method or a class: lets requests without a session through; `@Session()` is
 * a new one for them, which is stored when something is written to it. 503 if the store cannot tell.
 *
 * @publicApi
 */
export const OptionalSession = (): MethodDecorator & ClassDecorator =>
  SetMetadata(SESSION_ACCESS, 'optional' satisfies SessionAccess);

/**
 * For routes behind `SessionGuard`, on a method: a session is needed, whatever the class says.
 *
 * @publicApi
 */
export const RequireSession = (): MethodDecorator & ClassDecorator =>
  SetMetadata(SESSION_ACCESS, 'required' satisfies SessionAccess);

/**
 * For routes behind `SessionGuard`, on a method or a class: only sessions with a `userId` get through, those of visitors
 * who have not signed in get 401.
 *
 * @publicApi
 */
export const RequireUser = (): MethodDecorator & ClassDecorator =>
  SetMetadata(SESSION_ACCESS, 'user' satisfies SessionAccess);

/**
 * For routes behind `SessionGuard`, on a method or a class: the guard looks for no session, so the route works
 * while the store is down, as long as it does not ask for one by `@Session()`. For health checks and the like.
 *
 * @publicApi
 */
export const PublicSession = (): MethodDecorator & ClassDecorator =>
  SetMetadata(SESSION_ACCESS, 'public' satisfies SessionAccess);

/**
 * For routes behind `SessionGuard`, on a method or a class: the session is read from the store for every request, never
 * from the near cache. For what must not be even `coherence.leaseMs` behind a sign-out elsewhere: payments, changes of
 * password and of rights. `@StrictSession(false)` on a method takes it back from its class.
 *
 * @publicApi
 */
export const StrictSession = (strict = true): MethodDecorator & ClassDecorator =>
  SetMetadata(SESSION_STRICT, strict);

/**
 * On a method or a class: the user must have proved who they are within this time, by signing in or by
 * `session.reauthenticated()`; else 401 with `code: 'RECENT_LOGIN_REQUIRED'`. For changes of password, payments and the
 * like. Checked where the session is looked at: by `SessionGuard` or a parameter with `@Session()`; a route with neither is
 * not protected.
 *
 * @param within milliseconds, or a string such as `'5m'`
 * @throws {SessionArgumentError} while the app boots, if that is no duration
 */
export const RecentLogin = (within: Duration): MethodDecorator & ClassDecorator =>
  SetMetadata(
    SESSION_RECENT_LOGIN,
    durationArgument('@RecentLogin()', within, { min: 1_000, max: 365 * 86_400_000 }),
  );

/**
 * On a method or a class: what becomes of a request with a token when the store cannot be asked, instead of what the
 * module's option `onStoreUnavailable` says; see {@link StoreUnavailablePolicy}. `'anonymous'` is for routes that work
 * without a session (`@OptionalSession()`, or no guard), `'stale'` for those that only read one. Where `SessionGuard` or a
 * parameter with `@Session()` looks for the session; `@StrictSession()` and `@RecentLogin()` are never content with a
 * stale one.
 *
 * @throws {SessionArgumentError} while the app boots, if that is no policy
 */
export const OnStoreUnavailable = (policy: StoreUnavailablePolicy): MethodDecorator & ClassDecorator => {
  if (!['deny', 'anonymous', 'stale'].includes(policy)) {
    throw new SessionArgumentError(
      '@OnStoreUnavailable()',
      `must be 'deny', 'anonymous' or 'stale'; got ${typeof policy === 'string' ? `'${String(policy)}'` : typeof policy}. Write e.g. 'deny'.`,
    );
  }
  return SetMetadata(SESSION_ON_UNAVAILABLE, policy);
};

/**
 * For a method or a class: unsafe requests that another site caused are let through (see the option `csrf`). For
 * callbacks of identity providers and payment services, which check their own secrets.
 *
 * @publicApi
 */
export const SkipCsrf = (skip = true): MethodDecorator & ClassDecorator =>
  SetMetadata(SESSION_SKIP_CSRF, skip);

/**
 * The visitor's session, as an `ActiveSession`; with a key, that field of its data (undefined when absent). On any route,
 * behind `SessionGuard` or not: it is looked for when it is asked for, so other routes cost nothing.
 *
 * A visitor without a session gets a new one (`isStored` is false), which is stored, and the cookie set, when something
 * is written to it. Changes of `data` are saved before the response leaves; if that fails, the response is 503 or 401
 * instead.
 *
 * Import it from this package: `@nestjs/common` has a decorator of the same name that reads `request.session`.
 *
 * @publicApi
 */
export const Session =
  (key?: string): ParameterDecorator =>
  (target, name, index) => {
    // On the class, not on the method: who wraps or overrides that need not copy what stands on it.
    const { constructor } = target;
    if (!guarded.has(constructor)) UseGuards(SessionParameterGuard)(constructor);
    guarded.add(constructor);
    fromSession(key)(target, name, index);
  };

/** Classes with a parameter that wants a session. */
const guarded = new WeakSet<object>();

const fromSession = createParamDecorator(sessionParameter);

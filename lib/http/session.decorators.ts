import { createParamDecorator, SetMetadata, type ExecutionContext } from '@nestjs/common';
import type { ActiveSession } from '../core/active-session.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import { SESSION_ACCESS, SESSION_OF_REQUEST, SESSION_STRICT } from '../session.constants.js';

/** How a route treats a request without a session. */
export type SessionAccess = 'required' | 'optional' | 'public';

/** A request on which the guard has left its result. */
export interface GuardedRequest {
  [SESSION_OF_REQUEST]?: ActiveSession<object> | null;
}

/**
 * For routes behind `SessionGuard`, on a method or a class: lets requests without a session through; `@Session()` is
 * null for them. A session that is there is loaded. 503 if the store cannot tell.
 *
 * @publicApi
 */
export const OptionalSession = (): MethodDecorator & ClassDecorator =>
  SetMetadata(SESSION_ACCESS, 'optional' satisfies SessionAccess);

/**
 * For routes behind `SessionGuard`, on a method or a class: no session is looked for, so the route works while the
 * store is down; `@Session()` is always null. For sign-in pages, health checks and the like.
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
 * The request's session, as an `ActiveSession`; with a key, that field of its data (undefined when absent). Null on
 * routes that allow no session and got none.
 *
 * Import it from this package: `@nestjs/common` has a decorator of the same name that reads `request.session`.
 *
 * @throws {SessionArgumentError} (a 500, with the fix in the log) on a route that `SessionGuard` does not protect
 *
 * @publicApi
 */
export const Session: (key?: string) => ParameterDecorator = createParamDecorator(
  (key: string | undefined, context: ExecutionContext): unknown => {
    const request = context.switchToHttp().getRequest<GuardedRequest>();
    const session = request[SESSION_OF_REQUEST];
    if (session === undefined) {
      throw new SessionArgumentError(
        '@Session()',
        `of ${context.getClass().name}.${context.getHandler().name} found no result of SessionGuard. ` +
          'Add @UseGuards(SessionGuard) to the route, or provide it as APP_GUARD.',
      );
    }
    if (key === undefined || session === null) return session;
    return (session as ActiveSession<Record<string, unknown>>).get(key);
  },
);

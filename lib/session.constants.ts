/** Injection token of the resolved, frozen options ({@link ResolvedSessionOptions}). */
export const SESSION_OPTIONS = Symbol('SESSION_OPTIONS');
/** Injection token of the {@link SessionStore} in use. */
export const SESSION_STORE = Symbol('SESSION_STORE');
/** Injection token of the token transport the guard reads with. */
export const SESSION_TRANSPORT = Symbol('SESSION_TRANSPORT');

/** Route metadata: how a handler or controller treats a missing session. */
export const SESSION_ACCESS = 'nestjs-sessionkit:access';

/** Route metadata: the guard reads the store, not the near cache. */
export const SESSION_STRICT = 'nestjs-sessionkit:strict';

/**
 * Where the guard leaves its result on the raw request: an `ActiveSession`, or null when the route allows none.
 * A registered symbol, so that two copies of this package in one process still find each other's result.
 */
export const SESSION_OF_REQUEST = Symbol.for('nestjs-sessionkit.session');

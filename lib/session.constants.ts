/** Injection token of the resolved, frozen options ({@link ResolvedSessionOptions}). */
export const SESSION_OPTIONS = Symbol('SESSION_OPTIONS');
/** Injection token of the {@link SessionStore} in use. */
export const SESSION_STORE = Symbol('SESSION_STORE');

/** Route metadata: how a handler or controller treats a missing session. */
export const SESSION_ACCESS = 'nestjs-sessionkit:access';

/** Route metadata: the guard reads the store, not the near cache. */
export const SESSION_STRICT = 'nestjs-sessionkit:strict';

/** Route metadata: within how many ms the user must have proved who they are. */
export const SESSION_RECENT_LOGIN = 'nestjs-sessionkit:recent-login';

/** Route metadata: what becomes of a request when the store cannot be asked. */
export const SESSION_ON_UNAVAILABLE = 'nestjs-sessionkit:on-store-unavailable';

/** Route metadata: unsafe requests that another site caused are let through. */
export const SESSION_SKIP_CSRF = 'nestjs-sessionkit:skip-csrf';

import {
  dataCodecOf,
  idOfGivenToken,
  SessionArgumentError,
  type Duration,
  type SessionCodec,
  type SessionEvents,
  type SessionStore,
  type SimpleCodec,
} from '../index.js';
import { checkDuration, checkOptions, checkTimeout } from './check-options.js';
import { ExpressSessionStore, MAX_LIFE_MS } from './express-session-store.js';
import { ForeignStore, type ExpressStore } from './foreign-store.js';

/** As the module's. */
const MAX_ABSOLUTE_MS = 36_500 * 86_400_000;

/** @publicApi */
export interface ToExpressStoreOptions {
  /** How long a session lives without use whose cookie has no `maxAge`; each request begins it anew. @default '1d' */
  ttl?: Duration;
  /**
   * A session made here, or moved here from the fallback, ends this long after that, used or not; 0 = never for that
   * reason, as with express-session: whoever uses a session keeps it. At most `'36500d'`.
   * @default 0
   */
  absoluteTimeout?: Duration;
  /** As the module's option of that name. @default 16 */
  partitions?: number;
  /** The module's option of that name, where it is set: data is kept in the same form. */
  codec?: SessionCodec | SimpleCodec;
  /**
   * The app's `SessionEvents`: while its store does not answer, the event `disconnect` stands, and express-session lets
   * requests pass **without** a session. Without this option they get the error.
   */
  events?: SessionEvents;
  /**
   * The store used so far. A session that is found there and not here is moved here by the first request that brings its
   * cookie, with what it holds and its cookie's settings.
   */
  fallback?: ExpressStore;
  /**
   * How long one call of `fallback` may take, in milliseconds; then the caller gets `SessionStoreUnavailableError`.
   * @default 5000
   */
  timeoutMs?: number;
}

/**
 * A store of ours for `express-session` and for `@fastify/session`: `session({ store: toExpressStore(sessionStore), … })`,
 * with the app's own by `@InjectSessionStore()`, or with one made for this, such as `new MemorySessionStore()`. The module
 * opens and closes the app's; one made for this is yours: `await store.open()` before the first request, and
 * `await store.close()` at the end.
 *
 * A session lies under the id that its sid has as a given token. So with `allowGivenTokens: true` and the sid as the
 * token, the module reads the same sessions. They have no userId: those of a user lie together, and a sid does not say
 * whose it is.
 *
 * Data goes through JSON, as with every store of express-session. Times are kept true both ways: `cookie.maxAge` is the
 * session's idle timeout (of at most 1,000 days), and `cookie.expires` its deadline in the store.
 *
 * @throws {SessionArgumentError} naming the option that is wrong
 * @throws {SessionOptionsError} for a `codec` that does not decode what it has encoded
 * @publicApi
 */
export function toExpressStore(
  store: SessionStore,
  options: ToExpressStoreOptions = {},
): ExpressSessionStore {
  for (const method of ['create', 'get', 'set', 'touch', 'destroy'] as const) {
    if (typeof (store as Partial<SessionStore> | null | undefined)?.[method] === 'function') continue;
    throw new SessionArgumentError(
      'store',
      `must be a SessionStore; what was given has no ${method}(). Write e.g. toExpressStore(new MemorySessionStore()); a ` +
        'store of express-session needs no adapter here.',
    );
  }
  checkOptions(options, ['ttl', 'absoluteTimeout', 'partitions', 'codec', 'events', 'fallback', 'timeoutMs']);
  const {
    ttl = '1d',
    absoluteTimeout = 0,
    partitions = 16,
    codec,
    events,
    fallback,
    timeoutMs = 5_000,
  } = options;
  checkTimeout('options.timeoutMs', timeoutMs);
  if (!Number.isInteger(partitions) || partitions < 1 || partitions > 256)
    throw new SessionArgumentError(
      'options.partitions',
      `must be a whole number from 1 to 256, as the module's; got ${String(partitions)}. Leave it out for 16.`,
    );
  for (const method of ['encode', 'decode'] as const) {
    if (codec !== undefined && typeof (codec as Partial<SessionCodec> | null)?.[method] !== 'function')
      throw new SessionArgumentError(
        'options.codec',
        `must have ${method}(). Give the module's codec, or none.`,
      );
  }
  return new ExpressSessionStore(store, {
    ttlMs: checkDuration('options.ttl', ttl, MAX_LIFE_MS),
    absoluteMs: checkDuration('options.absoluteTimeout', absoluteTimeout, MAX_ABSOLUTE_MS, 'none'),
    codec: dataCodecOf(codec),
    idOf: (sid) => idOfGivenToken(sid, partitions),
    events,
    fallback: fallback === undefined ? undefined : new ForeignStore('options.fallback', fallback, timeoutMs),
  });
}

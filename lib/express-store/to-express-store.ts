import {
  defaultCodec,
  idOfGivenToken,
  SessionArgumentError,
  type Duration,
  type SessionEvents,
  type SessionStore,
} from '../index.js';
import { checkDuration, checkOptions } from './check-options.js';
import { ExpressSessionStore, MAX_LIFE_MS, type ExpressStoreCodec } from './express-session-store.js';
import { ForeignStore, type ExpressStore } from './foreign-store.js';

/** @publicApi */
export interface ToExpressStoreOptions {
  /** How long a session lives without use whose cookie has no `maxAge`; each request begins it anew. @default '1d' */
  ttl?: Duration;
  /** As the module's option of that name. @default 16 */
  partitions?: number;
  /** As the module's, where that has another than its default. */
  codec?: ExpressStoreCodec;
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
}

/**
 * A store of ours for `express-session` and for `@fastify/session`: `session({ store: toExpressStore(sessionStore), … })`,
 * with `new MemorySessionStore()`, or the app's own by `@InjectSessionStore()`.
 *
 * A session lies under the id that its sid has as a given token. So with `allowGivenTokens: true` and the sid as the
 * token, the module reads the same sessions. They have no userId: those of a user lie together, and a sid does not say
 * whose it is.
 *
 * Data goes through JSON, as with every store of express-session. Times are kept true both ways: `cookie.maxAge` is the
 * session's idle timeout (of at most 1,000 days), and `cookie.expires` its deadline in the store.
 *
 * @throws {SessionArgumentError} naming the option that is wrong
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
  checkOptions(options, ['ttl', 'partitions', 'codec', 'events', 'fallback']);
  const { ttl = '1d', partitions = 16, codec = defaultCodec, events, fallback } = options;
  if (!Number.isInteger(partitions) || partitions < 1 || partitions > 256)
    throw new SessionArgumentError(
      'options.partitions',
      `must be a whole number from 1 to 256, as the module's; got ${String(partitions)}. Leave it out for 16.`,
    );
  for (const method of ['encode', 'decode'] as const) {
    if (typeof (codec as Partial<ExpressStoreCodec>)[method] !== 'function')
      throw new SessionArgumentError(
        'options.codec',
        `must have ${method}(). Give the module's codec, or none.`,
      );
  }
  return new ExpressSessionStore(store, {
    ttlMs: checkDuration('options.ttl', ttl, MAX_LIFE_MS),
    codec,
    idOf: (sid) => idOfGivenToken(sid, partitions),
    events,
    fallback: fallback === undefined ? undefined : new ForeignStore('options.fallback', fallback),
  });
}

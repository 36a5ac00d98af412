// The module
export { SessionModule } from './session.module.js';
export type {
  CacheDecoder,
  CapturedRequest,
  CacheEncoder,
  CookieKeys,
  Duration,
  ResolvedSessionOptions,
  SessionCacheOptions,
  SessionIndexOptions,
  SessionCoherenceOptions,
  SessionCookieOptions,
  SessionCsrfOptions,
  SessionEventCallbacks,
  RedisClusterOptions,
  SessionModuleOptions,
  SessionOptionsFactory,
  StoreUnavailablePolicy,
  TransportOption,
} from './options/session-options.interface.js';

// Sessions by token
export { SessionService, type CreateSessionOptions, type GetSessionOptions } from './core/session.service.js';
export { ActiveSession, type SessionSource } from './core/active-session.js';
export type { RegenerateOptions } from './core/regenerate-options.js';
export type { DataChange, SessionData, SessionDataClass } from './core/session-data.js';
export type { WriteOptions } from './core/session-engine.js';
export { defaultCodec, type SessionCodec, type SessionCodecContext, type SimpleCodec } from './core/codec.js';
/** @internal for express-store, which keeps data as the module does */
export { dataCodecOf } from './core/custom-codec.js';
/** @internal for express-store */
export type { DataCodec } from './core/codec.js';

export { FieldStore } from './core/field-store.js';

// Sessions by user and id
export {
  SessionRegistry,
  type GetInfoOptions,
  type KillAllOptions,
  type KillOptions,
  type KillUserOptions,
  type SessionPage,
  type UserPage,
} from './core/session.registry.js';
export type { ActivityOptions, ListOptions } from './core/session-list.js';
export type { SessionInfo, SessionMetadata, SessionRecord } from './core/session-record.interface.js';

// HTTP
export { CsrfGuard } from './http/csrf.guard.js';
export { SessionGuard } from './http/session.guard.js';
export { SessionExceptionFilter } from './http/session-exception.filter.js';
export {
  OnStoreUnavailable,
  OptionalSession,
  PublicSession,
  RecentLogin,
  RequireSession,
  RequireUser,
  Session,
  SkipCsrf,
  StrictSession,
} from './http/session.decorators.js';
export type {
  ChainablePromise,
  ExpressSession,
  ExpressSessionCookie,
  SessionCallback,
} from './http/express-view.js';
export { HttpSessionService, type AttachSessionOptions } from './http/http-session.service.js';
export { FieldSession, type FieldCallback } from './http/field-session.js';
export type { CookieManager } from './http/token-transport.js';
export { sessionOf, type HttpRequest, type HttpResponse } from './http/http-request.js';
export type {
  AddHeader,
  CarriedSession,
  RequestHeaders,
  TokenTransport,
} from './core/token-transport.interface.js';

// Near cache, invalidations, events
export { CacheService } from './cache/cache.service.js';
export { CACHE_CLEAR_JOB } from './cache/cache.scheduler.js';
export { RedisSubscriber, type SubscriberCounts } from './pubsub/redis.subscriber.js';
export {
  SessionEvents,
  type CacheStats,
  type InvalidationOperation,
  type SessionEndReason,
  type SessionEventMap,
  type SubscriberState,
} from './events/session-events.js';

// Stores
export {
  SessionStore,
  type Conflict,
  type CreateResult,
  type DisplacedSession,
  type ExpiredSession,
  type Gone,
  type LimitReached,
  type ListPage,
  type ListPosition,
  type ListQuery,
  type LoadedSession,
  type MoveResult,
  type NewSession,
  type SessionChange,
  type SessionFence,
  type SessionLimit,
  type SessionStoreCapabilities,
  type TouchResult,
  type UserSessions,
  type WriteResult,
} from './core/session-store.js';
// For whoever writes a store
export { deadlineOf } from './core/session-record.interface.js';
export { comesAfter } from './core/session-store.js';
export { RecordSessionStore, type RecordSessionStoreOptions } from './core/record-session-store.js';
export { MemorySessionStore, type MemorySessionStoreOptions } from './store/memory-session.store.js';
export { idOfGivenToken, newSessionId } from './core/session-token.js';
export { InjectSessionStore } from './core/inject-session-store.decorator.js';
export { SESSION_STORE } from './session.constants.js';

// Errors
export { SessionError, type SessionErrorCode } from './errors/session.error.js';
export {
  SessionArgumentError,
  SessionDataError,
  SessionOptionsError,
  SessionTokenTakenError,
} from './errors/caller.errors.js';
export {
  SessionConflictError,
  SessionGoneError,
  SessionLimitError,
  SessionNotReplicatedError,
  SessionRotatedError,
  SessionStoreUnavailableError,
} from './errors/state.errors.js';

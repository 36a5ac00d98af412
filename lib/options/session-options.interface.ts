import type { Cluster, ClusterNode, ClusterOptions, Redis, RedisOptions } from 'ioredis';
import type { SessionCodec, SimpleCodec } from '../core/codec.js';
import type { SessionDataClass } from '../core/session-data.js';
import type { SessionMetadata, SessionRecord } from '../core/session-record.interface.js';
import type { SessionStore } from '../core/session-store.js';
import type { RequestHeaders, TokenTransport } from '../core/token-transport.interface.js';
import type { SessionEventMap } from '../events/session-events.js';

/**
 * A length of time: milliseconds as a number, or a string such as `'30m'`, `'14d'`, `'90s'` (package `ms`).
 * Numbers from 1 to 999 are refused: they are nearly always seconds by mistake (write `'60s'` or `'60ms'`).
 */
export type Duration = number | string;

/**
 * What becomes of a request that carries a token when the store cannot be asked:
 *
 * - `deny`: 503.
 * - `anonymous`: it goes on as a visitor's who has no session, where the route needs none. Nothing can be stored or ended,
 *   and no cookie is set or cleared: that is 503, as is a route that needs a session or a user.
 * - `stale`: it is answered from a copy in the near cache that is beyond its time, for at most `staleFor`, for reading only
 *   (`session.source` is `'stale'`); 503 where there is none, for every write, and on routes with `@StrictSession()` or
 *   `@RecentLogin()`.
 *
 * @publicApi
 */
export type StoreUnavailablePolicy = 'deny' | 'anonymous' | 'stale';

/**
 * Where a request carries its token: the session cookie, `Authorization: Bearer`, a header of your own (read and
 * answered as it is, without a scheme), or a transport you implement.
 */
export type TransportOption = 'cookie' | 'bearer' | { header: string } | TokenTransport;

/** A request that creates a session; `ip` as the framework's trust in proxies says, where there is a framework. */
export type CapturedRequest = RequestHeaders & { readonly ip?: string | undefined };

/**
 * A Redis Cluster: some of its nodes, and ioredis' options for it. Its `redisOptions` hold credentials and TLS for all
 * nodes, `natMap` and `dnsLookup` say how they are reached from here.
 *
 * @publicApi
 */
export interface RedisClusterOptions extends ClusterOptions {
  /** Nodes to begin with: `{ host, port }`, or URLs. The others are found through them. */
  readonly cluster: readonly ClusterNode[];
}

/**
 * Options of `SessionModule.forRoot` and `forRootAsync`. Everything has a default; unknown keys and wrong values
 * stop the boot with a `SessionOptionsError`.
 *
 * @publicApi
 */
export interface SessionModuleOptions {
  /**
   * Redis (or Valkey) 7.0 or newer: a URL, ioredis options, or an ioredis client; with Sentinel, options or a client
   * with `sentinels` and `name`; with Redis Cluster `{ cluster: [...] }` or an ioredis `Cluster`. A client is only copied
   * (`duplicate()`): it is never put into subscriber mode and never closed by this package.
   * @default absent: the embedded memory store, for one process
   */
  redis?: string | RedisOptions | Redis | RedisClusterOptions | Cluster;

  /**
   * Where invalidations are received, in the same forms as `redis`. Must reach the same server, or the same Cluster.
   * @default a second connection made from `redis`
   */
  subscriber?: string | RedisOptions | Redis | RedisClusterOptions | Cluster;

  /**
   * A store of your own instead of `redis`. The near cache is off unless the store says that this process is its
   * only writer (`capabilities.exclusive`): a foreign store announces no changes.
   */
  store?: SessionStore;

  /**
   * First part of every Redis key and channel: 1 to 64 printable ASCII characters without spaces and braces.
   * @default 'sk:'
   */
  keyPrefix?: string;

  /**
   * A session ends when it has not been used for this long; 0 = never for that reason. At most `'1000d'`.
   * @default '30m'
   */
  idleTimeout?: Duration;

  /**
   * A session ends this long after its creation, used or not; 0 = never for that reason. At most `'36500d'`.
   * @default '14d'
   */
  absoluteTimeout?: Duration;

  /**
   * At most one write per session in this time only to extend its life; at most half of `idleTimeout`.
   * @default '60s', or half of `idleTimeout` where that is less
   */
  touchInterval?: Duration;

  /**
   * Replace the token of a session this long after it was issued, with the response to a request: what leaked is worth
   * less. At least `'1m'`. Tokens the client is not told by a transport (`bearer`) stay.
   * @default absent: only `login` and `regenerate` replace it
   */
  rotateEvery?: Duration;

  /**
   * For this long after such a replacement the old token still reads, so that parallel requests of one browser get their
   * answers; what they write is refused (409). It is never prolonged. At most `'60s'` and half of `rotateEvery`.
   * @default 0
   */
  rotateGrace?: Duration;

  /**
   * Number of key groups that keep a user's sessions and their index together (one Redis Cluster slot each):
   * 1 to 256. Fixed for the life of a key prefix; checked against the store at start.
   * @default 16
   */
  partitions?: number;

  /**
   * Which lists of sessions are kept beside their records in Redis, each at the price of its memory. Fixed for the life of
   * a key prefix; checked against the store at start. Only with `redis`: other stores keep what they keep.
   *
   * - `users: false`: none of a user's sessions. What asks for them (`countForUser`, `getUserSessions`, `killUser` …)
   *   rejects with a `SessionOptionsError`, and `maxSessionsPerUser` stops the boot.
   * - `activity: false`: none by last activity. `getAllSessions`, `getAllUsers` and `count({ activeWithin })` reject
   *   likewise; the registry's `sessions()` and `users()`, in no order, go through all of them instead.
   * - `false`: none at all, only records, which Redis lets expire by itself. Nothing can be listed, counted or ended but by
   *   its token or id, `expired` is not emitted, and `sweepInterval` stops the boot.
   *
   * @default { users: true, activity: true }
   */
  index?: false | SessionIndexOptions;

  /**
   * Name of this process in invalidation messages: 1 to 64 characters of `A-Za-z0-9._:~-`.
   * @default random
   */
  instanceId?: string;

  /**
   * Accept `create(data, { token })`. A guessable token is a guessable login: leave it off unless tokens come from
   * a source of at least 128 random bits.
   * @default false
   */
  allowGivenTokens?: boolean;

  /** Most bytes of one session's encoded data. @default 262144 (256 KiB) */
  maxDataBytes?: number;

  /**
   * How long one store operation may take, reconnecting and retrying included; then 503. At most `'60s'`.
   * @default '1s'
   */
  commandTimeout?: Duration;

  /**
   * What becomes of requests with a token when the store does not answer; `@OnStoreUnavailable()` decides for a route.
   * Applies to `SessionGuard`, `@Session()`, `CsrfGuard` and `attachSession`; `SessionService` and the `request.session`
   * of `expressView` fail in any case. `'stale'` needs a near cache.
   * @default 'deny'
   */
  onStoreUnavailable?: StoreUnavailablePolicy;

  /**
   * With `'stale'`: for how much longer than otherwise a copy may be served, never beyond the session's own deadlines. So a
   * session ended elsewhere may be read here for up to `coherence.leaseMs` plus this. `'1s'` to `'10m'`.
   * @default '30s'
   */
  staleFor?: Duration;

  /**
   * A class that `session.data` is an instance of, for getters and methods. It is constructed with the stored fields;
   * those its constructor does not take over are assigned. What is stored are its own enumerable fields.
   * @default absent: plain objects
   */
  dataClass?: SessionDataClass;

  /**
   * How data becomes what stores, copies and cache files hold: `new Packr({ structuredClone: true })` of `msgpackr` for
   * example, or `encrypted` and `compressed` of `nestjs-sessionkit/codecs`. Sessions written by another codec are `null`;
   * `firstOf` there reads both.
   * @default plain JSON where that loses nothing, else the format of `devalue`, which also keeps Date, Buffer, Map, Set,
   * bigint, undefined …
   */
  codec?: SessionCodec | SimpleCodec;

  /**
   * How many replicas must confirm the end of a session before `destroy`, `kill` and `killUser` resolve (Redis `WAIT`, on
   * a connection of its own), so that a failover cannot bring it back. When fewer do within a third of `commandTimeout`:
   * `SessionNotReplicatedError`. At most 100.
   * @default 0
   */
  waitForReplicas?: number;

  /**
   * What is kept of a request that creates a session, for the user's list of devices: `true`: address and `User-Agent`;
   * `false`: nothing; or a function that gives the metadata.
   * @default true
   */
  captureMetadata?: boolean | ((request: CapturedRequest) => SessionMetadata);

  /**
   * Names of your own metadata, kept and listed with sessions: strings, numbers, booleans or null. Add them to the
   * interface `SessionMetadata` by declaration merging.
   * @default none
   */
  additionalFields?: readonly string[];

  /**
   * Most live sessions of one user: a number from 1, or a function of the user's id that returns one, or Infinity. Counted
   * in the step that creates a session, so that no number of processes gets past it.
   * @default absent: any number
   */
  maxSessionsPerUser?: number | ((userId: string) => number | Promise<number>);

  /**
   * At that limit: end the least recently used sessions of the user, or refuse the new one (`SessionLimitError`, 409).
   * @default 'evict-oldest'
   */
  onLimit?: 'evict-oldest' | 'reject';

  /**
   * How often sessions whose time is up are looked for and removed, and `expired` is emitted; each group of keys by one
   * process at a time. At least `'100ms'`.
   * @default '5s'
   */
  sweepInterval?: Duration;

  /** The near cache of this process, or `false` for none. */
  cache?: false | SessionCacheOptions;

  /** How far behind the store the near cache may be. */
  coherence?: SessionCoherenceOptions;

  /** Where requests carry the token; the first that leads to a live session wins. @default ['cookie', 'bearer'] */
  transport?: TransportOption | readonly TransportOption[];

  /** The session cookie. */
  cookie?: SessionCookieOptions;

  /**
   * Refuse (403) unsafe requests (`POST` and the like) that another site caused, where the session comes from a cookie.
   * `'strict'` is `{ strict: true }`; `false` switches the check off.
   * @default true
   */
  csrf?: boolean | 'strict' | SessionCsrfOptions;

  /**
   * Also set `request.session` (and `response.session`) as `express-session` does: data as plain properties, and
   * `save`, `reload`, `touch`, `regenerate`, `destroy`, `id` and `cookie`. For passport, connect-flash, and the
   * `@Session()` of `@nestjs/common`. Each request that carries a token then looks for its session, on every route.
   * @default false
   */
  expressView?: boolean;

  /**
   * Whose session it is, by its data: a user's id (numbers become strings), or null or undefined for nobody's, e.g.
   * `(data) => data.passport?.user`. Asked whenever changes made in a request are saved; when the answer changes, the
   * session gets a new token and becomes that user's, as by `regenerate({ userId })`. Needs `expressView`.
   * @default absent: only `login`, `regenerate` and `create` say whose a session is
   */
  // oxlint-disable-next-line typescript/no-explicit-any -- any function of the data, whatever SessionData was told of it
  userIdFrom?: (data: any) => string | number | null | undefined;

  /** Callbacks for three of the `SessionEvents`, for configuration files; the emitter has them all. */
  events?: SessionEventCallbacks;
}

/** @publicApi */
export interface SessionIndexOptions {
  /** Keep a list of each user's sessions. @default true */
  users?: boolean;
  /** Keep lists of sessions and users by last activity. @default true */
  activity?: boolean;
}

/** @publicApi */
export interface SessionCacheOptions {
  /**
   * Most sessions held; the least recently used make room, where "recently" is known to an eighth of this. 0 = no limit.
   * @default 10000
   */
  maxEntries?: number;
  /**
   * Most bytes of session data held, as the codec wrote it (`stats().bytes`; a copy takes some 500 bytes of memory besides):
   * the least recently used make room, and a session with more is not kept at all. 0 = no limit. Not for files, which
   * `maxEntries` bounds. @default 0
   */
  maxBytes?: number;
  /** Share of a session's remaining life for which a copy may be used: above 0, at most 1. @default 1 */
  ttlRatio?: number;
  /** A copy is read again from the store after this long at the latest. @default '60s' */
  maxAge?: Duration;
  /**
   * Empties the near cache on this cron schedule (5 or 6 fields, as in `@nestjs/schedule`). The job stands in the
   * app's `SchedulerRegistry` as `sessionkit:cache-clear` where `ScheduleModule.forRoot()` is imported.
   * @default absent: never
   */
  clearCron?: string;
  /**
   * Looks for copies that will not be served any more, this often, and drops them; 0 = never: they make room when the
   * cache is full (with `maxEntries: 0` each copy is looked at about once a minute).
   * @default 0
   */
  idleCheckInterval?: Duration;
  /** How many copies each of these looks at; the next one goes on from there. @default 30 */
  idleCheckPerCount?: number;
  /** Emits `cacheReport` with the cache's statistics, and logs them, this often; 0 = never. @default 0 */
  reportInterval?: Duration;
  /**
   * Where copies lie. In files their data takes no memory (an index of about a kilobyte a session does), and a read of
   * one takes a disk access: for sessions with much data.
   * @default 'file' if `directory` is set, else 'memory'
   */
  type?: 'memory' | 'file';
  /**
   * Directory for copies in files. Made if it is not there; each process keeps to a subdirectory of its own, which it
   * removes when it ends. Several processes may share it.
   */
  directory?: string;
  /** Makes of a record what is written to its file, e.g. encrypted or compressed. @default JSON.stringify */
  encoder?: CacheEncoder;
  /** Makes a record of what `encoder` made; gets a string for a string and a Buffer for bytes. @default JSON.parse */
  decoder?: CacheDecoder;
}

/**
 * May be asynchronous. If it throws, the session is not kept in a file, and `cacheError` is emitted.
 *
 * @publicApi
 */
export type CacheEncoder = (record: SessionRecord) => string | Uint8Array | Promise<string | Uint8Array>;

/**
 * May be asynchronous. If it throws, or returns something else than was encoded, the session is read from the store,
 * and `cacheError` is emitted.
 *
 * @publicApi
 */
// A method's type: so a function that takes only strings, such as JSON.parse, may stand for it.
export type CacheDecoder = { decode(encoded: string | Buffer): unknown }['decode'];

/** @publicApi */
export interface SessionCoherenceOptions {
  /**
   * A session that was ended or changed anywhere is served from no near cache for longer than this many milliseconds,
   * whatever happens to connections and processes: 100 to 60000.
   * @default 2000
   */
  leaseMs?: number;
  /**
   * How often the subscriber proves that it has missed nothing, in milliseconds: 10 to half of `leaseMs`. Each proof
   * costs Redis about 10 µs.
   * @default 500, or a quarter of `leaseMs` where that is less
   */
  heartbeatMs?: number;
}

/** @publicApi */
export interface SessionCookieOptions {
  /**
   * Name of the cookie (RFC 6265 token characters).
   * @default the strictest that the other options allow: '__Host-sid', '__Secure-sid' with a domain or path, 'sid' if
   * not secure
   */
  name?: string;
  /**
   * Send the cookie over TLS only. `'auto'`: yes under `NODE_ENV=production`, where the boot stops unless the app
   * speaks TLS or trusts a proxy that does; elsewhere no, and the cookie is set on loopback addresses only.
   * @default 'auto'
   */
  secure?: boolean | 'auto';
  /** Which requests that other sites cause carry the cookie. `'none'` needs `secure: true`. @default 'lax' */
  sameSite?: 'lax' | 'strict' | 'none';
  /** Keep the cookie from scripts. @default true */
  httpOnly?: boolean;
  /** URL path below which the browser sends it. @default '/' */
  path?: string;
  /** Domain whose subdomains get it too. @default absent: only the host that set it */
  domain?: string;
  /**
   * How long the browser keeps it, prolonged whenever the session is; never longer than the session lives.
   * @default absent: until the browser is closed
   */
  maxAge?: Duration;
  /** Bind the cookie to the top-level site it is embedded in (CHIPS). Needs `secure: true`. @default false */
  partitioned?: boolean;
  /**
   * Sign the cookie (HMAC-SHA-256), so that forged ones are refused without asking the store: at least 32 characters
   * each. The first signs, all verify. Or an instance of Keygrip.
   * @default none: tokens have 256 random bits and need no signature to be safe
   */
  secrets?: string | readonly string[] | CookieKeys;
}

/**
 * What signs cookies; an instance of Keygrip is one.
 *
 * @publicApi
 */
export interface CookieKeys {
  /** The signature of the data, without dots. */
  sign(data: string): string;
  /** Compares in constant time. */
  verify(data: string, signature: string): boolean;
}

/** @publicApi */
export interface SessionCsrfOptions {
  /**
   * Also refuse unsafe requests that do not say where they come from, and those from another subdomain of the site.
   * @default false
   */
  strict?: boolean;
  /** Other origins that may send unsafe requests, e.g. `['https://app.example.com']`. @default [] */
  allowedOrigins?: readonly string[];
}

/** The cookie's attributes as sent. */
export interface ResolvedCookieOptions {
  readonly name: string;
  readonly secure: boolean;
  readonly sameSite: 'lax' | 'strict' | 'none';
  readonly httpOnly: boolean;
  readonly path: string;
  readonly domain: string | undefined;
  readonly maxAgeMs: number | undefined;
  readonly partitioned: boolean;
  readonly secrets: readonly string[] | CookieKeys;
  /** `secure: 'auto'` decided it: the app must keep its part of the bargain. */
  readonly decided: boolean;
}

/** @publicApi */
export type SessionEventCallbacks = {
  [K in 'message' | 'cacheWrite' | 'cacheClear']?: (payload: SessionEventMap[K]) => void;
};

/**
 * What `useClass` and `useExisting` of `forRootAsync` must implement.
 *
 * @publicApi
 */
export interface SessionOptionsFactory {
  createSessionOptions(): SessionModuleOptions | Promise<SessionModuleOptions>;
}

/** Options after filling and checking; durations are milliseconds. */
export interface ResolvedSessionOptions {
  readonly redis: SessionModuleOptions['redis'];
  readonly subscriber: SessionModuleOptions['subscriber'];
  readonly store: SessionStore | undefined;
  readonly keyPrefix: string;
  readonly idleTimeout: number;
  readonly absoluteTimeout: number;
  readonly touchInterval: number;
  /** 0 = never. */
  readonly rotateEveryMs: number;
  readonly rotateGraceMs: number;
  readonly partitions: number;
  readonly index: Readonly<Required<SessionIndexOptions>> | false;
  readonly instanceId: string;
  readonly allowGivenTokens: boolean;
  readonly maxDataBytes: number;
  readonly commandTimeoutMs: number;
  readonly onStoreUnavailable: StoreUnavailablePolicy;
  /** Undefined: not set. */
  readonly staleForMs: number | undefined;
  readonly dataClass: SessionDataClass | undefined;
  readonly codec: SessionCodec | undefined;
  readonly waitForReplicas: number;
  /** 0 = any number. */
  readonly maxSessionsPerUser: number | ((userId: string) => number | Promise<number>);
  readonly onLimit: 'evict-oldest' | 'reject';
  readonly captureMetadata: boolean | ((request: CapturedRequest) => SessionMetadata);
  readonly additionalFields: readonly string[];
  readonly sweepIntervalMs: number;
  readonly cache: ResolvedCacheOptions | false;
  readonly coherence: Readonly<Required<SessionCoherenceOptions>>;
  readonly transport: readonly TransportOption[];
  readonly cookie: ResolvedCookieOptions;
  readonly csrf: Readonly<Required<SessionCsrfOptions>> | false;
  readonly expressView: boolean;
  readonly userIdFrom: SessionModuleOptions['userIdFrom'];
  readonly events: Readonly<SessionEventCallbacks>;
}

export interface ResolvedCacheOptions {
  readonly maxEntries: number;
  readonly maxBytes: number;
  readonly ttlRatio: number;
  readonly maxAgeMs: number;
  readonly clearCron: string | undefined;
  readonly idleCheckIntervalMs: number;
  readonly idleCheckPerCount: number;
  readonly reportIntervalMs: number;
  /** Null: copies lie in memory. */
  readonly files: {
    readonly directory: string;
    readonly encoder: CacheEncoder;
    readonly decoder: CacheDecoder;
  } | null;
}

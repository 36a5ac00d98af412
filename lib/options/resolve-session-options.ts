import { randomBytes } from 'node:crypto';
import { resolve } from 'node:path';
import { SessionOptionsError } from '../errors/caller.errors.js';
import {
  checkBoolean,
  checkDuration,
  checkGroup,
  checkInteger,
  checkKeys,
  checkString,
  shown,
} from './option-checks.js';
import { DEFAULTS, LIMITS } from './session-options.defaults.js';
import type {
  ResolvedCacheOptions,
  ResolvedCookieOptions,
  ResolvedSessionOptions,
  SessionCacheOptions,
  SessionCookieOptions,
  SessionEventCallbacks,
  SessionModuleOptions,
  TransportOption,
} from './session-options.interface.js';

const KNOWN: readonly (keyof SessionModuleOptions)[] = [
  'redis',
  'subscriber',
  'store',
  'keyPrefix',
  'idleTimeout',
  'absoluteTimeout',
  'touchInterval',
  'partitions',
  'instanceId',
  'allowGivenTokens',
  'maxDataBytes',
  'commandTimeout',
  'dataClass',
  'waitForReplicas',
  'cache',
  'coherence',
  'transport',
  'cookie',
  'csrf',
  'events',
];

/** RFC 6265 cookie-name and RFC 9110 field-name are the same production: token. */
const HTTP_TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$/;

/**
 * Fills, checks and freezes the module options. Both `forRoot` and `forRootAsync` come through here.
 *
 * @throws {SessionOptionsError} naming the option, the value and the fix
 */
export function resolveSessionOptions(input: SessionModuleOptions = {}): ResolvedSessionOptions {
  if (typeof input !== 'object' || input === null) {
    throw new SessionOptionsError(
      '(root)',
      `must be an object; got ${shown(input)}. Return the options from the factory.`,
    );
  }
  checkKeys('', input, KNOWN);

  const timing = resolveTiming(input);
  const redis = checkRedis('redis', input.redis);
  const subscriber = checkRedis('subscriber', input.subscriber);
  if (subscriber !== undefined && redis === undefined) {
    throw new SessionOptionsError(
      'subscriber',
      'needs "redis", which is absent. Set redis too, or drop subscriber.',
    );
  }
  if (input.store !== undefined && redis !== undefined) {
    throw new SessionOptionsError('store', 'and "redis" exclude each other. Set one of them.');
  }

  return Object.freeze({
    redis,
    subscriber,
    store: checkStore(input.store),
    keyPrefix: checkString(
      'keyPrefix',
      input.keyPrefix,
      DEFAULTS.keyPrefix,
      // Printable ASCII but for the braces, which would break the partition's hash tag.
      /^(?=.{1,64}$)[\x21-\x7a\x7c\x7e]+$/,
      `1 to ${LIMITS.keyPrefixLength} printable ASCII characters without spaces and braces`,
    ),
    ...timing,
    partitions: checkInteger('partitions', input.partitions, DEFAULTS.partitions, {
      min: 1,
      max: LIMITS.partitions,
    }),
    instanceId: checkString(
      'instanceId',
      input.instanceId,
      randomBytes(9).toString('base64url'),
      /^[A-Za-z0-9._:~-]{1,64}$/,
      '1 to 64 characters of A-Z a-z 0-9 . _ : ~ -',
    ),
    allowGivenTokens: checkBoolean('allowGivenTokens', input.allowGivenTokens, DEFAULTS.allowGivenTokens),
    maxDataBytes: checkInteger('maxDataBytes', input.maxDataBytes, DEFAULTS.maxDataBytes, {
      min: 2,
      max: LIMITS.maxDataBytes,
    }),
    commandTimeoutMs: checkDuration('commandTimeout', input.commandTimeout, DEFAULTS.commandTimeout, {
      min: 10,
      max: LIMITS.commandTimeout,
    }),
    dataClass: checkDataClass(input.dataClass),
    waitForReplicas: resolveWaitForReplicas(input),
    cache: resolveCache(input.cache),
    coherence: resolveCoherence(input.coherence),
    transport: resolveTransport(input.transport),
    cookie: resolveCookie(input.cookie),
    csrf: resolveCsrf(input.csrf),
    events: resolveEvents(input.events),
  });
}

function resolveTiming(input: SessionModuleOptions) {
  const idleTimeout = checkDuration('idleTimeout', input.idleTimeout, DEFAULTS.idleTimeout, {
    min: 0,
    max: LIMITS.idleTimeout,
  });
  const absoluteTimeout = checkDuration('absoluteTimeout', input.absoluteTimeout, DEFAULTS.absoluteTimeout, {
    min: 0,
    max: LIMITS.absoluteTimeout,
  });
  if (idleTimeout > 0 && absoluteTimeout > 0 && idleTimeout > absoluteTimeout) {
    throw new SessionOptionsError(
      'idleTimeout',
      `is ${idleTimeout} ms, longer than absoluteTimeout (${absoluteTimeout} ms), and could never take effect. ` +
        'Shorten it, or set idleTimeout: 0.',
    );
  }
  const mostTouch = idleTimeout === 0 ? LIMITS.idleTimeout : Math.floor(idleTimeout / 2);
  const touchInterval = checkDuration(
    'touchInterval',
    input.touchInterval,
    Math.min(DEFAULTS.touchInterval, mostTouch),
    { min: 0, max: LIMITS.idleTimeout },
  );
  if (touchInterval > mostTouch) {
    throw new SessionOptionsError(
      'touchInterval',
      `is ${touchInterval} ms, more than half of idleTimeout (${idleTimeout} ms): sessions in use would end. ` +
        `Write ${mostTouch} or less.`,
    );
  }
  return { idleTimeout, absoluteTimeout, touchInterval };
}

type RedisOption = SessionModuleOptions['redis'];

/** Never shows the value: URLs and options hold passwords. */
function checkRedis(option: 'redis' | 'subscriber', value: RedisOption): RedisOption {
  if (value === undefined) return undefined;
  if (typeof value === 'string') {
    if (/^rediss?:\/\//.test(value) && URL.canParse(value)) return value;
    throw new SessionOptionsError(
      option,
      "must be a URL such as 'redis://localhost:6379'; got another string.",
    );
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new SessionOptionsError(
      option,
      `must be a URL, ioredis options or an ioredis client; got ${Array.isArray(value) ? 'an array' : typeof value}. ` +
        "Write e.g. redis: 'redis://localhost:6379'.",
    );
  }
  if ('isCluster' in value && value.isCluster) {
    throw new SessionOptionsError(
      option,
      'is an ioredis Cluster, which this version does not support. Pass a single Redis.',
    );
  }
  const settings: object = isClient(value) ? value.options : value;
  if ('sentinels' in settings && settings.sentinels) checkSentinel(option, settings);
  if ('cluster' in settings) {
    throw new SessionOptionsError(
      option,
      'names a cluster, which this version does not support. Pass a single Redis.',
    );
  }
  return value;
}

function checkSentinel(
  option: string,
  settings: { sentinels?: unknown; name?: unknown; role?: unknown },
): void {
  const { sentinels, name, role } = settings;
  if (!Array.isArray(sentinels) || sentinels.length === 0) {
    throw new SessionOptionsError(
      `${option}.sentinels`,
      `must name at least one sentinel; got ${shown(sentinels)}. Write [{ host: '10.0.0.1', port: 26379 }].`,
    );
  }
  if (typeof name !== 'string' || name === '') {
    throw new SessionOptionsError(
      `${option}.name`,
      `must be the name under which the sentinels know the master; got ${shown(name)}. Write e.g. 'mymaster'.`,
    );
  }
  if (role !== undefined && role !== 'master') {
    throw new SessionOptionsError(
      `${option}.role`,
      `must be 'master'; got ${shown(role)}. Replicas lag behind: drop the option.`,
    );
  }
}

function isClient(value: object): value is { duplicate: () => unknown; options: object } {
  return 'duplicate' in value && typeof value.duplicate === 'function';
}

const STORE_METHODS = [
  'open',
  'close',
  'create',
  'get',
  'set',
  'touch',
  'destroy',
  'move',
  'all',
  'length',
  'clear',
  'userSessions',
  'destroyMany',
] as const;

function checkStore(store: SessionModuleOptions['store']): SessionModuleOptions['store'] {
  if (store === undefined) return undefined;
  const missing =
    typeof store === 'object' && store !== null
      ? STORE_METHODS.filter((method) => typeof store[method] !== 'function')
      : STORE_METHODS;
  if (missing.length > 0) {
    throw new SessionOptionsError(
      'store',
      `must be a SessionStore; got ${shown(store)} without ${missing.join(', ')}. Extend the class SessionStore.`,
    );
  }
  const { capabilities } = store;
  for (const name of ['versions', 'index', 'exclusive'] as const) {
    if (typeof capabilities?.[name] !== 'boolean') {
      throw new SessionOptionsError(
        'store',
        `must say what it can do; got ${shown(capabilities?.[name])} for capabilities.${name}. Write true or false.`,
      );
    }
  }
  return store;
}

function checkDataClass(value: SessionModuleOptions['dataClass']): SessionModuleOptions['dataClass'] {
  // A class has a prototype; arrow functions and methods, which cannot be constructed, have none.
  if (value === undefined || (typeof value === 'function' && typeof value.prototype === 'object'))
    return value;
  throw new SessionOptionsError(
    'dataClass',
    `must be a class; got ${typeof value === 'function' ? 'a function that cannot be constructed' : shown(value)}. Write class Data { … } and pass Data.`,
  );
}

function resolveWaitForReplicas(input: SessionModuleOptions): number {
  const count = checkInteger('waitForReplicas', input.waitForReplicas, DEFAULTS.waitForReplicas, {
    min: 0,
    max: LIMITS.waitForReplicas,
  });
  if (count > 0 && input.redis === undefined) {
    throw new SessionOptionsError(
      'waitForReplicas',
      `is ${count}, but only Redis has replicas to wait for. Set "redis" too, or drop it.`,
    );
  }
  return count;
}

function resolveCoherence(input: SessionModuleOptions['coherence']) {
  const coherence = checkGroup('coherence', input, ['leaseMs', 'heartbeatMs']);
  const leaseMs = checkInteger(
    'coherence.leaseMs',
    coherence.leaseMs,
    DEFAULTS.coherence.leaseMs,
    LIMITS.leaseMs,
  );
  // Two heartbeats must fit into a lease, or each that comes late would end it.
  const heartbeatMs = checkInteger(
    'coherence.heartbeatMs',
    coherence.heartbeatMs,
    Math.min(DEFAULTS.coherence.heartbeatMs, Math.floor(leaseMs / 4)),
    { min: LIMITS.heartbeatMs, max: Math.floor(leaseMs / 2) },
  );
  return Object.freeze({ leaseMs, heartbeatMs });
}

const KNOWN_CACHE: readonly (keyof SessionCacheOptions)[] = [
  'maxEntries',
  'ttlRatio',
  'maxAge',
  'clearCron',
  'idleCheckInterval',
  'idleCheckPerCount',
  'reportInterval',
  'type',
  'directory',
  'encoder',
  'decoder',
];

function resolveCache(input: SessionModuleOptions['cache']): ResolvedCacheOptions | false {
  if (input === false) return false;
  const cache = checkGroup('cache', input, KNOWN_CACHE);
  const ttlRatio: unknown = cache.ttlRatio === undefined ? DEFAULTS.cache.ttlRatio : cache.ttlRatio;
  if (typeof ttlRatio !== 'number' || !(ttlRatio > 0 && ttlRatio <= 1)) {
    throw new SessionOptionsError(
      'cache.ttlRatio',
      `must be a number above 0, at most 1; got ${shown(ttlRatio)}. Write e.g. 0.5.`,
    );
  }
  const clearCron: unknown = cache.clearCron;
  // Only the shape here; the scheduler asks the cron package itself, which is loaded when the option is used.
  if (clearCron !== undefined && (typeof clearCron !== 'string' || clearCron.trim() === '')) {
    throw new SessionOptionsError(
      'cache.clearCron',
      `must be a cron expression; got ${shown(clearCron)}. Write e.g. '0 4 * * *'.`,
    );
  }
  return Object.freeze({
    maxEntries: checkInteger('cache.maxEntries', cache.maxEntries, DEFAULTS.cache.maxEntries, {
      min: 0,
      max: LIMITS.entries,
    }),
    ttlRatio,
    maxAgeMs: checkDuration('cache.maxAge', cache.maxAge, DEFAULTS.cache.maxAge, {
      min: 1,
      max: LIMITS.maxAge,
    }),
    clearCron,
    idleCheckIntervalMs: checkDuration(
      'cache.idleCheckInterval',
      cache.idleCheckInterval,
      DEFAULTS.cache.idleCheckInterval,
      { min: 0, max: LIMITS.interval },
    ),
    idleCheckPerCount: checkInteger(
      'cache.idleCheckPerCount',
      cache.idleCheckPerCount,
      DEFAULTS.cache.idleCheckPerCount,
      { min: 1, max: LIMITS.idleCheckPerCount },
    ),
    reportIntervalMs: checkDuration(
      'cache.reportInterval',
      cache.reportInterval,
      DEFAULTS.cache.reportInterval,
      { min: 0, max: LIMITS.interval },
    ),
    files: resolveFiles(cache),
  });
}

function resolveFiles(cache: SessionCacheOptions): ResolvedCacheOptions['files'] {
  const { type, directory, encoder, decoder } = cache;
  if (type !== undefined && type !== 'memory' && type !== 'file') {
    throw new SessionOptionsError(
      'cache.type',
      `must be 'memory' or 'file'; got ${shown(type)}. Write e.g. 'memory'.`,
    );
  }
  if (directory !== undefined && (typeof directory !== 'string' || !/^[^\0]+$/.test(directory))) {
    throw new SessionOptionsError(
      'cache.directory',
      `must be the path of a directory; got ${shown(directory)}. Write e.g. '/var/cache/my-app'.`,
    );
  }
  for (const [name, codec] of Object.entries({ encoder, decoder })) {
    if (codec !== undefined && typeof codec !== 'function') {
      throw new SessionOptionsError(
        `cache.${name}`,
        `must be a function; got ${shown(codec)}. Write e.g. ${name === 'encoder' ? 'JSON.stringify' : 'JSON.parse'}.`,
      );
    }
  }
  if ((encoder === undefined) !== (decoder === undefined)) {
    const [given, missing] = encoder === undefined ? ['decoder', 'encoder'] : ['encoder', 'decoder'];
    throw new SessionOptionsError(
      `cache.${missing}`,
      `is missing, though cache.${given} is set: one undoes what the other does. Set both or none.`,
    );
  }
  if (type === 'file' && directory === undefined) {
    throw new SessionOptionsError(
      'cache.directory',
      "must be set for cache.type 'file'. Write e.g. '/var/cache/my-app'.",
    );
  }
  if (type === 'memory' || directory === undefined) {
    const idle = directory !== undefined ? 'directory' : encoder !== undefined ? 'encoder' : undefined;
    if (idle === undefined) return null;
    throw new SessionOptionsError(
      `cache.${idle}`,
      "has no effect on copies in memory. Set cache.directory and cache.type 'file', or drop it.",
    );
  }
  return Object.freeze({
    directory: resolve(directory),
    encoder: encoder ?? JSON.stringify,
    decoder: decoder ?? JSON.parse,
  });
}

function resolveTransport(input: SessionModuleOptions['transport']): readonly TransportOption[] {
  const list: readonly unknown[] =
    input === undefined ? DEFAULTS.transport : Array.isArray(input) ? input : [input];
  if (list.length === 0) {
    throw new SessionOptionsError(
      'transport',
      "must name at least one; got an empty array. Write e.g. ['cookie'].",
    );
  }
  return Object.freeze(
    list.map((item): TransportOption => {
      if (item === 'cookie' || item === 'bearer') return item;
      if (typeof item === 'object' && item !== null && 'header' in item) {
        checkKeys('transport.', item, ['header']);
        const { header: name } = item;
        // There is no default: an unset environment variable would switch this transport off in silence.
        if (name === undefined) {
          throw new SessionOptionsError(
            'transport.header',
            'must be a header name; got undefined. Write e.g. "x-auth-token".',
          );
        }
        const header = checkString('transport.header', name, 'x-auth-token', HTTP_TOKEN, 'a header name');
        return Object.freeze({ header: header.toLowerCase() });
      }
      if (typeof item === 'object' && item !== null && 'read' in item) return checkTransport(item);
      throw new SessionOptionsError(
        'transport',
        `must be 'cookie', 'bearer', { header: 'x-auth-token' } or a TokenTransport, or an array of these; got ${shown(item)}. Write e.g. ['cookie', 'bearer'].`,
      );
    }),
  );
}

function checkTransport(item: object): TransportOption {
  for (const [name, wanted] of [
    ['read', true],
    ['write', false],
    ['clear', false],
  ] as const) {
    const method: unknown = (item as Record<string, unknown>)[name];
    if (typeof method === 'function' || (method === undefined && !wanted)) continue;
    throw new SessionOptionsError(
      `transport.${name}`,
      `must be a function; got ${shown(method)}. See the interface TokenTransport.`,
    );
  }
  return item as TransportOption;
}

const KNOWN_COOKIE: readonly (keyof SessionCookieOptions)[] = [
  'name',
  'secure',
  'sameSite',
  'httpOnly',
  'path',
  'domain',
  'maxAge',
  'partitioned',
  'secrets',
];

function resolveCookie(input: SessionModuleOptions['cookie']): ResolvedCookieOptions {
  const cookie = checkGroup('cookie', input, KNOWN_COOKIE);
  const { secure: wanted = DEFAULTS.cookie.secure, sameSite = DEFAULTS.cookie.sameSite } = cookie;
  if (wanted !== 'auto' && typeof wanted !== 'boolean') {
    throw new SessionOptionsError(
      'cookie.secure',
      `must be true, false or 'auto'; got ${shown(wanted)}. Environment variables are strings: compare them with 'true'.`,
    );
  }
  if (!['lax', 'strict', 'none'].includes(sameSite)) {
    throw new SessionOptionsError(
      'cookie.sameSite',
      `must be 'lax', 'strict' or 'none'; got ${shown(sameSite)}. Write e.g. 'lax'.`,
    );
  }
  const secure = wanted === 'auto' ? process.env.NODE_ENV === 'production' : wanted;
  const path = checkString(
    'cookie.path',
    cookie.path,
    DEFAULTS.cookie.path,
    /^\/[\x21-\x3a\x3c-\x7e]*$/,
    "a URL path that begins with '/'",
  );
  const domain =
    cookie.domain === undefined
      ? undefined
      : checkString(
          'cookie.domain',
          cookie.domain,
          'example.com',
          /^\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$/,
          'a domain name',
        );
  const partitioned = checkBoolean('cookie.partitioned', cookie.partitioned, DEFAULTS.cookie.partitioned);
  const prefix = !secure ? '' : domain === undefined && path === '/' ? '__Host-' : '__Secure-';
  const name = checkString(
    'cookie.name',
    cookie.name,
    `${prefix}sid`,
    HTTP_TOKEN,
    'a cookie name (letters, digits, _ and -)',
  );
  // Browsers drop a cookie that breaks one of these, without a word to the server.
  const rules: readonly (readonly [broken: boolean, option: string, why: string])[] = [
    [
      /^__host-/i.test(name) && domain !== undefined,
      'cookie.domain',
      `is ${shown(domain)}, but a cookie named "${name}" may have none. Drop one of both.`,
    ],
    [
      /^__host-/i.test(name) && path !== '/',
      'cookie.path',
      `is ${shown(path)}, but a cookie named "${name}" needs '/'. Drop one of both.`,
    ],
    [
      /^__(host|secure)-/i.test(name) && !secure,
      'cookie.secure',
      `is ${shown(wanted)}, but a cookie named "${name}" needs a secure one. Set secure: true, or choose a name without the prefix.`,
    ],
    [
      sameSite === 'none' && !secure,
      'cookie.sameSite',
      "is 'none', which browsers take from secure cookies only. Set cookie.secure: true.",
    ],
    [partitioned && !secure, 'cookie.partitioned', 'needs a secure cookie. Set cookie.secure: true.'],
  ];
  for (const [broken, option, why] of rules) if (broken) throw new SessionOptionsError(option, why);
  return Object.freeze({
    name,
    secure,
    sameSite,
    httpOnly: checkBoolean('cookie.httpOnly', cookie.httpOnly, DEFAULTS.cookie.httpOnly),
    path,
    domain,
    maxAgeMs:
      cookie.maxAge === undefined
        ? undefined
        : checkDuration('cookie.maxAge', cookie.maxAge, 0, { min: 1_000, max: LIMITS.cookieMaxAge }),
    partitioned,
    secrets: resolveSecrets(cookie.secrets),
    decided: wanted === 'auto',
  });
}

/** Never shows a value. */
function resolveSecrets(input: SessionCookieOptions['secrets']): readonly string[] {
  const secrets: readonly unknown[] = input === undefined ? [] : Array.isArray(input) ? input : [input];
  if (input !== undefined && secrets.length === 0) {
    throw new SessionOptionsError(
      'cookie.secrets',
      'must hold at least one; got an empty array. Drop it to leave the cookie unsigned.',
    );
  }
  for (const secret of secrets) {
    if (typeof secret === 'string' && secret.length >= LIMITS.secretLength) continue;
    throw new SessionOptionsError(
      'cookie.secrets',
      `must be strings of at least ${LIMITS.secretLength} characters; got ${typeof secret === 'string' ? `one of ${secret.length}` : typeof secret}. ` +
        'Make one with: openssl rand -base64 32',
    );
  }
  return Object.freeze([...(secrets as string[])]);
}

function resolveCsrf(input: SessionModuleOptions['csrf'] = DEFAULTS.csrf): ResolvedSessionOptions['csrf'] {
  if (input === false) return false;
  if (input === true) return Object.freeze({ strict: false, allowedOrigins: [] });
  if (input === 'strict') return Object.freeze({ strict: true, allowedOrigins: [] });
  const csrf = checkGroup('csrf', input, ['strict', 'allowedOrigins']);
  const allowedOrigins: readonly unknown[] = csrf.allowedOrigins ?? [];
  if (!Array.isArray(allowedOrigins))
    throw new SessionOptionsError(
      'csrf.allowedOrigins',
      `must be an array; got ${shown(allowedOrigins)}. Write ['https://app.example.com'].`,
    );
  for (const origin of allowedOrigins as readonly unknown[]) {
    if (typeof origin === 'string' && URL.canParse(origin) && new URL(origin).origin === origin) continue;
    throw new SessionOptionsError(
      'csrf.allowedOrigins',
      `must hold origins; got ${shown(origin)}. Write scheme, host and port only, e.g. 'https://app.example.com'.`,
    );
  }
  return Object.freeze({
    strict: checkBoolean('csrf.strict', csrf.strict, false),
    allowedOrigins: Object.freeze([...(allowedOrigins as string[])]),
  });
}

const KNOWN_EVENTS: readonly (keyof SessionEventCallbacks)[] = ['message', 'cacheWrite', 'cacheClear'];

function resolveEvents(input: SessionModuleOptions['events']): SessionEventCallbacks {
  const events = checkGroup<SessionEventCallbacks>('events', input, KNOWN_EVENTS);
  for (const [name, callback] of Object.entries(events)) {
    if (callback !== undefined && typeof callback !== 'function') {
      throw new SessionOptionsError(
        `events.${name}`,
        `must be a function; got ${shown(callback)}. Write (payload) => { … }.`,
      );
    }
  }
  return Object.freeze({ ...events });
}

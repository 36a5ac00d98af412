import { randomBytes } from 'node:crypto';
import { SessionOptionsError } from '../errors/caller.errors.js';
import {
  checkBoolean,
  checkDuration,
  checkGroup,
  checkInteger,
  checkKeys,
  checkString,
  shown,
  namesCluster,
} from './option-checks.js';
import { resolveCache, resolveCoherence } from './resolve-cache-options.js';
import { resolveCookie, resolveCsrf, resolveExpressView, resolveTransport } from './resolve-http-options.js';
import { DEFAULTS, LIMITS } from './session-options.defaults.js';
import type {
  ResolvedSessionOptions,
  SessionEventCallbacks,
  SessionModuleOptions,
} from './session-options.interface.js';

const KNOWN: readonly (keyof SessionModuleOptions)[] = [
  'redis',
  'subscriber',
  'store',
  'keyPrefix',
  'idleTimeout',
  'absoluteTimeout',
  'touchInterval',
  'rotateEvery',
  'rotateGrace',
  'partitions',
  'index',
  'instanceId',
  'allowGivenTokens',
  'maxDataBytes',
  'commandTimeout',
  'onStoreUnavailable',
  'staleFor',
  'dataClass',
  'codec',
  'waitForReplicas',
  'captureMetadata',
  'additionalFields',
  'maxSessionsPerUser',
  'onLimit',
  'sweepInterval',
  'cache',
  'coherence',
  'transport',
  'cookie',
  'csrf',
  'expressView',
  'userIdFrom',
  'events',
];

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
  if (subscriber !== undefined && redis !== undefined && namesCluster(subscriber) !== namesCluster(redis)) {
    throw new SessionOptionsError(
      'subscriber',
      'and "redis" must both name a Cluster, or neither: what is written to one is not told by the other. Drop subscriber.',
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
    index: resolveIndex(input),
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
    ...resolveOutage(input),
    dataClass: checkDataClass(input.dataClass),
    codec: checkCodec(input.codec),
    waitForReplicas: resolveWaitForReplicas(input),
    ...resolveMetadata(input),
    ...resolveLimit(input),
    sweepIntervalMs: checkDuration(
      'sweepInterval',
      input.sweepInterval,
      DEFAULTS.sweepInterval,
      LIMITS.sweepInterval,
    ),
    cache: resolveCache(input.cache),
    coherence: resolveCoherence(input.coherence),
    transport: resolveTransport(input.transport),
    cookie: resolveCookie(input.cookie),
    csrf: resolveCsrf(input.csrf),
    ...resolveExpressView(input),
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
  return { idleTimeout, absoluteTimeout, touchInterval, ...resolveRotation(input) };
}

function resolveOutage({ onStoreUnavailable, staleFor, cache }: SessionModuleOptions) {
  const policies = ['deny', 'anonymous', 'stale'] as const;
  if (onStoreUnavailable !== undefined && !policies.includes(onStoreUnavailable)) {
    throw new SessionOptionsError(
      'onStoreUnavailable',
      `must be 'deny', 'anonymous' or 'stale'; got ${shown(onStoreUnavailable)}. Write e.g. 'deny'.`,
    );
  }
  if (onStoreUnavailable === 'stale' && cache === false) {
    throw new SessionOptionsError(
      'onStoreUnavailable',
      "is 'stale', which serves copies of the near cache, and cache: false leaves none. Drop cache: false, or choose 'deny'.",
    );
  }
  return {
    onStoreUnavailable: onStoreUnavailable ?? DEFAULTS.onStoreUnavailable,
    staleForMs:
      staleFor === undefined
        ? undefined
        : checkDuration('staleFor', staleFor, DEFAULTS.staleFor, LIMITS.staleFor),
  };
}

function resolveMetadata({ captureMetadata, additionalFields = [] }: SessionModuleOptions) {
  if (captureMetadata !== undefined && typeof captureMetadata !== 'function')
    checkBoolean('captureMetadata', captureMetadata, true);
  if (!Array.isArray(additionalFields)) {
    throw new SessionOptionsError(
      'additionalFields',
      `must be an array of names; got ${shown(additionalFields)}. Write ['groupId'].`,
    );
  }
  for (const name of additionalFields as readonly unknown[]) {
    if (typeof name === 'string' && /^[A-Za-z][A-Za-z0-9_]{0,63}$/.test(name) && !METADATA.includes(name))
      continue;
    throw new SessionOptionsError(
      'additionalFields',
      `must hold names of letters, digits and _, and none of ${METADATA.join(', ')}; got ${shown(name)}. Write e.g. 'groupId'.`,
    );
  }
  return {
    captureMetadata: captureMetadata ?? DEFAULTS.captureMetadata,
    additionalFields: Object.freeze([...(additionalFields as readonly string[])]),
  };
}

/** Metadata that is there anyway. */
const METADATA = ['ip', 'userAgent', 'label', 'rotatedAt', 'authenticatedAt', '__proto__', 'constructor'];

function resolveLimit({ maxSessionsPerUser, onLimit }: SessionModuleOptions) {
  if (
    maxSessionsPerUser !== undefined &&
    typeof maxSessionsPerUser !== 'function' &&
    (!Number.isInteger(maxSessionsPerUser) || maxSessionsPerUser < 1)
  ) {
    throw new SessionOptionsError(
      'maxSessionsPerUser',
      `must be a whole number of at least 1, or a function; got ${shown(maxSessionsPerUser)}. Drop it for any number.`,
    );
  }
  if (onLimit !== undefined && onLimit !== 'evict-oldest' && onLimit !== 'reject') {
    throw new SessionOptionsError(
      'onLimit',
      `must be 'evict-oldest' or 'reject'; got ${shown(onLimit)}. Write e.g. 'evict-oldest'.`,
    );
  }
  if (onLimit !== undefined && maxSessionsPerUser === undefined) {
    throw new SessionOptionsError(
      'onLimit',
      'needs maxSessionsPerUser: without it there is no limit. Set that too, or drop onLimit.',
    );
  }
  return { maxSessionsPerUser: maxSessionsPerUser ?? 0, onLimit: onLimit ?? DEFAULTS.onLimit };
}

function resolveRotation({ rotateEvery, rotateGrace }: SessionModuleOptions) {
  const rotateEveryMs = checkDuration('rotateEvery', rotateEvery, 0, LIMITS.rotateEvery);
  const rotateGraceMs = checkDuration('rotateGrace', rotateGrace, DEFAULTS.rotateGrace, {
    min: 0,
    max: LIMITS.rotateGrace,
  });
  if (rotateGraceMs > rotateEveryMs / 2) {
    throw new SessionOptionsError(
      'rotateGrace',
      rotateEveryMs === 0
        ? "needs rotateEvery: without it no token is replaced by itself. Set rotateEvery: '15m', or drop rotateGrace."
        : `is ${rotateGraceMs} ms, more than half of rotateEvery (${rotateEveryMs} ms). Write ${Math.floor(rotateEveryMs / 2)} or less.`,
    );
  }
  return { rotateEveryMs, rotateGraceMs };
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
      `must be a URL, ioredis options, { cluster: [...] } or an ioredis client; got ${Array.isArray(value) ? 'an array' : typeof value}. ` +
        "Write e.g. redis: 'redis://localhost:6379'.",
    );
  }
  const settings: object = isClient(value) ? value.options : value;
  if ('sentinels' in settings && settings.sentinels) checkSentinel(option, settings);
  if (!isClient(value) && 'cluster' in value) checkCluster(option, value.cluster);
  return value;
}

function checkCluster(option: string, nodes: unknown): void {
  const isNode = (node: unknown): boolean =>
    (typeof node === 'string' && /^(rediss?:)?\/\//.test(node)) ||
    (Number.isInteger(node) && Number(node) > 0) ||
    (typeof node === 'object' && node !== null && 'port' in node && Number.isInteger(Number(node.port)));
  if (Array.isArray(nodes) && nodes.length > 0 && nodes.every(isNode)) return;
  // Never shown: a node may be given as a URL with a password.
  throw new SessionOptionsError(
    `${option}.cluster`,
    `must name at least one node by host and port; got ${Array.isArray(nodes) ? `${nodes.length} nodes, not all of them such` : typeof nodes}. ` +
      "Write [{ host: '10.0.0.1', port: 6379 }].",
  );
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
  for (const [name, value] of Object.entries(capabilities ?? {})) {
    if (typeof value !== 'boolean') {
      throw new SessionOptionsError(
        'store',
        `must say what it can do; got ${shown(value)} for capabilities.${name}. Write true or false.`,
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

function checkCodec(value: SessionModuleOptions['codec']): SessionModuleOptions['codec'] {
  if (value === undefined) return undefined;
  const missing = (['encode', 'decode'] as const).filter(
    (method) => typeof (value as Partial<typeof value> | null)?.[method] !== 'function',
  );
  if (missing.length === 0) return value;
  throw new SessionOptionsError(
    'codec',
    `must be an object with encode and decode; got ${shown(value)} without ${missing.join(', ')}. ` +
      'Write { encode: (data, { id, userId }) => …, decode: (encoded, { id, userId }) => … }, or drop it.',
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

/** Pairs of options of which one needs what the other one leaves out are refused too. */
function resolveIndex({
  index,
  redis,
  maxSessionsPerUser,
  sweepInterval,
}: SessionModuleOptions): ResolvedSessionOptions['index'] {
  const given = index === false ? NO_INDEX : checkGroup('index', index, ['users', 'activity']);
  const users = checkBoolean('index.users', given.users, DEFAULTS.index.users);
  const activity = checkBoolean('index.activity', given.activity, DEFAULTS.index.activity);
  if (users && activity) return ALL_INDEXES;
  const left = index === false ? 'index' : users ? 'index.activity' : 'index.users';
  if (redis === undefined) {
    throw new SessionOptionsError(
      left,
      'is false, but only Redis can do without its indexes: other stores keep what they keep. Set "redis" too, or drop it.',
    );
  }
  if (!users && maxSessionsPerUser !== undefined) {
    throw new SessionOptionsError(
      'maxSessionsPerUser',
      `counts the sessions of a user, of which no list is kept: "${left}" is false. Drop one of both.`,
    );
  }
  if (index === false && sweepInterval !== undefined) {
    throw new SessionOptionsError(
      'sweepInterval',
      'has no effect: with index: false Redis lets sessions expire by itself, and nobody is told. Drop one of both.',
    );
  }
  return index === false ? false : Object.freeze({ users, activity });
}

const NO_INDEX = { users: false, activity: false };
const ALL_INDEXES = Object.freeze({ ...DEFAULTS.index });

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

import { resolve } from 'node:path';
import { SessionOptionsError } from '../errors/caller.errors.js';
import { checkDuration, checkGroup, checkInteger, shown } from './option-checks.js';
import { DEFAULTS, LIMITS } from './session-options.defaults.js';
import type {
  ResolvedCacheOptions,
  SessionCacheOptions,
  SessionModuleOptions,
} from './session-options.interface.js';

export function resolveCoherence(input: SessionModuleOptions['coherence']) {
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
  'maxBytes',
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

export function resolveCache(input: SessionModuleOptions['cache']): ResolvedCacheOptions | false {
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
  const maxBytes = checkInteger('cache.maxBytes', cache.maxBytes, DEFAULTS.cache.maxBytes, {
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
  });
  const files = resolveFiles(cache);
  if (maxBytes > 0 && files !== null) {
    throw new SessionOptionsError(
      'cache.maxBytes',
      `is for copies in memory, and with cache.type 'file' they lie in files; got ${maxBytes}. Set cache.maxEntries instead.`,
    );
  }
  return Object.freeze({
    maxEntries: checkInteger('cache.maxEntries', cache.maxEntries, DEFAULTS.cache.maxEntries, {
      min: 0,
      max: LIMITS.entries,
    }),
    maxBytes,
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
    files,
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

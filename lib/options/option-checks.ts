import { distance } from 'fastest-levenshtein';
import ms from 'ms';
import type { Cluster } from 'ioredis';
import { SessionOptionsError } from '../errors/caller.errors.js';
import type { RedisClusterOptions, SessionModuleOptions } from './session-options.interface.js';

/** Shows a wrong value in an error without showing what may be secret or endless in it. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value);
  if (value === null || typeof value !== 'object') return String(value);
  return Array.isArray(value) ? 'an array' : 'an object';
}

/** Refuses keys that are not in `known`, naming the nearest one. */
export function checkKeys(path: string, value: object, known: readonly string[]): void {
  for (const key of Object.keys(value)) {
    if (known.includes(key)) continue;
    const nearest = known.reduce((best, name) => (distance(key, name) < distance(key, best) ? name : best));
    throw new SessionOptionsError(
      path + key,
      `is not known. Did you mean "${path}${nearest}"? Known here: ${known.join(', ')}.`,
    );
  }
}

/** A plain object of options at `path` (its keys are checked against `known`), or an empty one when absent. */
export function checkGroup<T extends object>(
  path: string,
  value: T | undefined,
  known: readonly (keyof T & string)[],
): T {
  if (value === undefined) return {} as T;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new SessionOptionsError(path, `must be an object; got ${shown(value)}. Write { ${known[0]}: … }.`);
  }
  checkKeys(`${path}.`, value, known);
  return value;
}

/** A duration in whole milliseconds between `min` and `max`, or `fallback` when absent. 0 passes only if `min` is 0. */
export function checkDuration(
  path: string,
  value: unknown,
  fallback: number,
  { min, max }: { min: number; max: number },
): number {
  if (value === undefined) return fallback;
  if (typeof value === 'number' && value >= 1 && value <= 999) {
    throw new SessionOptionsError(path, `is ${value}: milliseconds? Write '${value}s' or '${value}ms'.`);
  }
  const parsed = typeof value === 'string' ? parseDuration(value) : value;
  if (typeof parsed !== 'number' || !Number.isInteger(parsed)) {
    throw new SessionOptionsError(
      path,
      `must be a duration; got ${shown(value)}. Write milliseconds, or a string such as '30m' or '14d'.`,
    );
  }
  if (parsed < min || parsed > max) {
    throw new SessionOptionsError(
      path,
      `must lie between ${ms(min)} and ${ms(max)}; got ${shown(value)} (${parsed} ms). Choose a value in that range.`,
    );
  }
  return parsed;
}

function parseDuration(text: string): number | undefined {
  // ms() also reads '12' as milliseconds; here a bare number in a string is as ambiguous as 12 itself.
  if (!/^\d+(\.\d+)? ?[a-z]+$/i.test(text)) return text === '0' ? 0 : undefined;
  const parsed = ms(text as ms.StringValue) as number | undefined;
  return parsed === undefined || Number.isNaN(parsed) ? undefined : Math.round(parsed);
}

/** A whole number between `min` and `max`, or `fallback` when absent. */
export function checkInteger(
  path: string,
  value: unknown,
  fallback: number,
  { min, max }: { min: number; max: number },
): number {
  if (value === undefined) return fallback;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    throw new SessionOptionsError(
      path,
      `must be a whole number from ${min} to ${max}; got ${shown(value)}. Write e.g. ${fallback}.`,
    );
  }
  return value;
}

/** A boolean, or `fallback` when absent. */
export function checkBoolean(path: string, value: unknown, fallback: boolean): boolean {
  if (value === undefined) return fallback;
  if (typeof value !== 'boolean') {
    throw new SessionOptionsError(
      path,
      `must be true or false; got ${shown(value)}. Environment variables are strings: compare them with 'true'.`,
    );
  }
  return value;
}

/** A string that matches `pattern`, or `fallback` when absent; `rule` says in words what the pattern wants. */
export function checkString(
  path: string,
  value: unknown,
  fallback: string,
  pattern: RegExp,
  rule: string,
): string {
  if (value === undefined) return fallback;
  if (typeof value !== 'string' || !pattern.test(value)) {
    throw new SessionOptionsError(
      path,
      `must be ${rule}; got ${shown(value)}. Write e.g. ${shown(fallback)}.`,
    );
  }
  return value;
}

/** Whether the options `redis` and `subscriber` name a Cluster. Every ioredis client has `isCluster`, and a command `cluster`. */
export function namesCluster(
  value: NonNullable<SessionModuleOptions['redis']>,
): value is RedisClusterOptions | Cluster {
  if (typeof value !== 'object') return false;
  return 'isCluster' in value ? value.isCluster : 'cluster' in value;
}

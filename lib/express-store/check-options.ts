import ms from 'ms';
import { SessionArgumentError, type Duration } from '../index.js';

/** @throws {SessionArgumentError} for a key that is not known */
export function checkOptions(options: object, known: readonly string[]): void {
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    throw new SessionArgumentError(`options.${key}`, `is not known. Known here: ${known.join(', ')}.`);
  }
}

/** @throws {SessionArgumentError} unless the value is a whole number from 1 on */
export function checkTimeout(argument: string, value: number): number {
  if (Number.isInteger(value) && value >= 1) return value;
  throw new SessionArgumentError(
    argument,
    `must be a whole number of milliseconds, 1 or more; got ${String(value)}.`,
  );
}

/**
 * @param none what 0 means, where it may be given
 * @throws {SessionArgumentError} unless the value is a duration from a second to `max`, both in milliseconds
 */
export function checkDuration(argument: string, value: Duration, max: number, none?: string): number {
  const parsed: unknown =
    typeof value === 'string' && /[a-z]/i.test(value) ? ms(value as ms.StringValue) : value;
  if (typeof parsed === 'number' && Number.isInteger(parsed) && parsed >= 1_000 && parsed <= max)
    return parsed;
  if (parsed === 0 && none !== undefined) return 0;
  const got = typeof value === 'string' ? JSON.stringify(value) : String(value);
  throw new SessionArgumentError(
    argument,
    `must be a duration from 1 s to ${ms(max)}${none === undefined ? '' : `, or 0 for ${none}`}; got ${got}. Write milliseconds, or a string such as '30m' or '1d'.`,
  );
}

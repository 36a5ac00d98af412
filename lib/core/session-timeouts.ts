import { SessionArgumentError, SessionOptionsError } from '../errors/caller.errors.js';
import { checkDuration } from '../options/option-checks.js';
import { LIMITS } from '../options/session-options.defaults.js';
import type { Duration } from '../options/session-options.interface.js';

/** Timeouts of one session, in milliseconds; 0 = never. */
export interface SessionTimeouts {
  readonly idleTimeout: number;
  readonly absoluteTimeout: number;
}

/** The same as an app gives them; what is absent is taken from elsewhere. */
export interface TimeoutOptions {
  readonly idleTimeout?: Duration | undefined;
  readonly absoluteTimeout?: Duration | undefined;
}

/**
 * Timeouts in milliseconds, as far as they are given.
 *
 * @throws {SessionArgumentError} for what is no duration
 */
export function checkTimeouts({
  idleTimeout,
  absoluteTimeout,
}: TimeoutOptions): Partial<SessionTimeouts> | undefined {
  if (idleTimeout === undefined && absoluteTimeout === undefined) return undefined;
  return {
    ...(idleTimeout !== undefined && { idleTimeout: duration('idleTimeout', idleTimeout) }),
    ...(absoluteTimeout !== undefined && { absoluteTimeout: duration('absoluteTimeout', absoluteTimeout) }),
  };
}

/**
 * Lays given timeouts over others.
 *
 * @throws {SessionArgumentError} if the given idle timeout could never take effect
 */
export function withTimeouts(
  given: Partial<SessionTimeouts> | undefined,
  { idleTimeout: idle, absoluteTimeout: absolute }: SessionTimeouts,
): SessionTimeouts {
  const { idleTimeout = idle, absoluteTimeout = absolute } = given ?? {};
  if (
    given?.idleTimeout !== undefined &&
    idleTimeout > 0 &&
    absoluteTimeout > 0 &&
    idleTimeout > absoluteTimeout
  ) {
    throw new SessionArgumentError(
      'idleTimeout',
      `is ${idleTimeout} ms, longer than absoluteTimeout (${absoluteTimeout} ms), and could never take effect. Raise absoluteTimeout too.`,
    );
  }
  return { idleTimeout, absoluteTimeout };
}

/** @throws {SessionArgumentError} unless the value is a duration (see `Duration`), in ms from `min` to `max` */
export function durationArgument(
  argument: string,
  value: Duration,
  range: { readonly min: number; readonly max: number },
): number {
  if (value === undefined) throw new SessionArgumentError(argument, 'must be a duration; got undefined.');
  try {
    return checkDuration(argument, value, 0, range);
  } catch (error) {
    throw error instanceof SessionOptionsError ? new SessionArgumentError(argument, error.detail) : error;
  }
}

/** How long a client may be told to keep a token. */
export const TOKEN_LIFE = { min: 1_000, max: LIMITS.cookieMaxAge } as const;

function duration(name: 'idleTimeout' | 'absoluteTimeout', value: Duration): number {
  return durationArgument(name, value, { min: 0, max: LIMITS[name] });
}

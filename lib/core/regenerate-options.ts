import { SessionArgumentError } from '../errors/caller.errors.js';
import type { Duration } from '../options/session-options.interface.js';
import type { MoveSettings } from './session-engine.js';
import { checkMetadata } from './session-metadata.js';
import type { SessionMetadata } from './session-record.interface.js';
import { checkTimeouts } from './session-timeouts.js';
import { checkUserId } from './user-id.js';

/** @publicApi */
export interface RegenerateOptions {
  /**
   * Whose the session is from now on: a user's id, or null for nobody's.
   * @default as before
   */
  userId?: string | null;
  /**
   * Take the data along. From one user to another, or to none, data is dropped whatever this says.
   * @default true
   */
  keepData?: boolean;
  /**
   * Where and on what the session goes on, e.g. the device of a sign-in.
   * @default as before
   */
  metadata?: SessionMetadata;
  /**
   * For this session instead of the module's option, e.g. for "remember me" at sign-in; 0 = never. If one of both
   * timeouts is given, the session's times begin anew, but for `createdAt`.
   * @default as before
   */
  idleTimeout?: Duration;
  /**
   * The same, from now on.
   * @default as before
   */
  absoluteTimeout?: Duration;
}

const NAMES = ['userId', 'keepData', 'metadata', 'idleTimeout', 'absoluteTimeout'];

/** @throws {SessionArgumentError} naming the option that is wrong or unknown */
export function checkRegenerateOptions(
  options: RegenerateOptions = {},
  additionalFields: readonly string[] = [],
): MoveSettings {
  checkNames(options, NAMES);
  const { userId, keepData = true, metadata } = options;
  if (typeof keepData !== 'boolean') {
    throw new SessionArgumentError('options.keepData', `must be true or false; got ${typeof keepData}.`);
  }
  return {
    userId: userId === undefined || userId === null ? userId : checkUserId(userId),
    keepData,
    metadata: metadata === undefined ? undefined : checkMetadata(metadata, additionalFields),
    timeouts: checkTimeouts(options),
  };
}

/** @throws {SessionArgumentError} for a name that is not in `known`: an option never passes in silence */
export function checkNames(options: object, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    const got = options === null ? 'null' : Array.isArray(options) ? 'an array' : typeof options;
    throw new SessionArgumentError('options', `must be an object; got ${got}. Write { ${known[0]}: … }.`);
  }
  for (const name of Object.keys(options)) {
    if (!known.includes(name)) {
      throw new SessionArgumentError(`options.${name}`, `is not known. Known: ${known.join(', ')}.`);
    }
  }
}

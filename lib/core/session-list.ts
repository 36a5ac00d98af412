import { SessionArgumentError } from '../errors/caller.errors.js';
import { checkNames } from './regenerate-options.js';
import { durationArgument } from './session-timeouts.js';
import { LIMITS } from '../options/session-options.defaults.js';
import type { Duration } from '../options/session-options.interface.js';
import type { ListPosition } from './session-store.js';

/** @publicApi */
export interface ActivityOptions {
  /** Only what was active within this time, e.g. `'15m'`. @default all */
  activeWithin?: Duration;
}

/** @publicApi */
export interface ListOptions extends ActivityOptions {
  /** Most entries: 1 to 1000. @default 100 */
  limit?: number;
  /** Where the part before this one ended: its `cursor`. @default the beginning */
  cursor?: string | null;
}

/** Checked. */
export interface ListWish {
  readonly activeWithin: number | undefined;
  readonly limit: number;
  readonly after: ListPosition | undefined;
}

const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1_000;

/** @throws {SessionArgumentError} naming the option that is wrong or unknown */
export function checkListOptions(options: ListOptions = {}): ListWish {
  checkNames(options, ['activeWithin', 'limit', 'cursor']);
  const { limit = DEFAULT_LIMIT, cursor = null } = options;
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT)
    throw new SessionArgumentError(
      'options.limit',
      `must be a whole number from 1 to ${MAX_LIMIT}; got ${String(limit)}.`,
    );
  return { activeWithin: checkActiveWithin(options), limit, after: readCursor(cursor) };
}

/** Milliseconds; undefined: however long ago. */
export function checkActiveWithin({ activeWithin }: ActivityOptions): number | undefined {
  if (activeWithin === undefined) return undefined;
  return durationArgument('options.activeWithin', activeWithin, { min: 1, max: LIMITS.absoluteTimeout });
}

/** A position as apps hand it around: opaque, without anything secret in it. */
export function writeCursor({ lastAccess, id }: ListPosition): string {
  return Buffer.from(JSON.stringify([lastAccess, id])).toString('base64url');
}

function readCursor(cursor: unknown): ListPosition | undefined {
  if (cursor === null) return undefined;
  if (typeof cursor === 'string' && cursor.length <= 4_096) {
    try {
      const [lastAccess, id] = JSON.parse(Buffer.from(cursor, 'base64url').toString()) as unknown[];
      if (typeof lastAccess === 'number' && typeof id === 'string' && !/\p{Surrogate}/u.test(id))
        return { lastAccess, id };
    } catch {
      // refused below
    }
  }
  throw new SessionArgumentError(
    'options.cursor',
    'is not one that a list gave. Pass the cursor of the last part.',
  );
}

import { SessionArgumentError } from '../errors/caller.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import type { DataFields } from './session-data.js';
import { checkUserId } from './user-id.js';

/**
 * Whose session it is by its data (option `userIdFrom`); null where that is nobody's.
 *
 * @throws {SessionArgumentError} if the app's function returns something else than a user's id
 */
export function ownerBy(
  userIdFrom: NonNullable<ResolvedSessionOptions['userIdFrom']>,
  data: DataFields,
): string | null {
  const owner: unknown = userIdFrom(data) ?? null;
  if (owner === null) return null;
  if (typeof owner !== 'string' && typeof owner !== 'number') {
    throw new SessionArgumentError(
      'userIdFrom',
      `must return a string, a number, null or undefined; got ${typeof owner}. Return the user's id.`,
    );
  }
  return checkUserId(String(owner));
}

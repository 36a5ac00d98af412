import { SessionArgumentError } from '../errors/caller.errors.js';

/** Longest userId in UTF-16 units; e-mail addresses (254) fit. */
const MAX_USER_ID_LENGTH = 255;

/**
 * Checks a userId from the app: a non-empty, well-formed string of at most 255 characters.
 *
 * @throws {SessionArgumentError} otherwise; ids of another type are the app's to turn into strings, one way everywhere
 */
export function checkUserId(userId: unknown): string {
  if (typeof userId !== 'string') {
    throw new SessionArgumentError(
      'userId',
      `must be a string; got ${userId === null ? 'null' : typeof userId}. Write String(user.id).`,
    );
  }
  if (userId.length === 0 || userId.length > MAX_USER_ID_LENGTH || /\p{Surrogate}/u.test(userId)) {
    throw new SessionArgumentError(
      'userId',
      `must have 1 to ${MAX_USER_ID_LENGTH} well-formed characters; got ${userId.length}.`,
    );
  }
  return userId;
}

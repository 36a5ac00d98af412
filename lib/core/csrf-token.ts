import { createHmac, timingSafeEqual } from 'node:crypto';

/**
 * A token that only pages of the session's own client can know: an HMAC under the session's token, so that nothing need
 * be stored, and it changes when the session is regenerated. From it nobody gets to the session's token. 43 characters.
 */
export function csrfTokenOf(token: string): string {
  return createHmac('sha256', token).update('sessionkit csrf').digest('base64url');
}

/** In constant time; false for anything that is not a string of the right length. */
export function isCsrfTokenOf(token: string, candidate: unknown): boolean {
  if (typeof candidate !== 'string' || candidate.length !== 43) return false;
  return timingSafeEqual(Buffer.from(candidate, 'latin1'), Buffer.from(csrfTokenOf(token), 'latin1'));
}

import { SessionArgumentError } from '../errors/caller.errors.js';
import type { SessionMetadata } from './session-record.interface.js';

const MAX_IP = 64;
/** A client chooses its user agent freely; longer ones are cut, because no device list shows more. */
const MAX_USER_AGENT = 512;
const MAX_LABEL = 128;
const KNOWN = ['ip', 'userAgent', 'label'];
/** Parts that the module sets itself: whoever passes a session's metadata on passes them too, to no effect. */
const OWN = ['rotatedAt', 'authenticatedAt'];

/** Characters of an additional field. */
const MAX_FIELD = 256;

/**
 * Metadata as it is stored: known parts only, bounded, frozen. Absent parts are left out, so that
 * `{ userAgent: request.headers['user-agent'] }` may be passed as it is.
 *
 * @param additional names of parts that the app has added (option `additionalFields`): strings, numbers, booleans or null
 * @throws {SessionArgumentError} for an unknown part, one of a wrong type, or one that is too long
 */
export function checkMetadata(
  metadata: SessionMetadata = {},
  additional: readonly string[] = [],
): SessionMetadata {
  const checked: Record<string, unknown> = {};
  for (const [part, value] of Object.entries(metadata) as [string, unknown][]) {
    if (OWN.includes(part) || value === undefined) continue;
    if (KNOWN.includes(part)) checked[part] = checkPart(part, value);
    else if (additional.includes(part)) checked[part] = checkField(part, value);
    else {
      throw new SessionArgumentError(
        `metadata.${part}`,
        `is not known. Known: ${[...KNOWN, ...additional].join(', ')}; others are named by the option "additionalFields".`,
      );
    }
  }
  return Object.freeze(checked);
}

function checkPart(part: string, value: unknown): string {
  if (typeof value !== 'string') {
    throw new SessionArgumentError(
      `metadata.${part}`,
      `must be a string; got ${value === null ? 'null' : typeof value}.`,
    );
  }
  if (part === 'label' && value.length > MAX_LABEL) {
    throw new SessionArgumentError(
      'metadata.label',
      `must have at most ${MAX_LABEL} characters; got ${value.length}.`,
    );
  }
  return part === 'label' ? value : value.slice(0, part === 'ip' ? MAX_IP : MAX_USER_AGENT);
}

function checkField(part: string, value: unknown): unknown {
  const isPlain =
    value === null || typeof value === 'boolean' || (typeof value === 'number' && Number.isFinite(value));
  if (isPlain || (typeof value === 'string' && value.length <= MAX_FIELD)) return value;
  throw new SessionArgumentError(
    `metadata.${part}`,
    `must be a string of at most ${MAX_FIELD} characters, a number, a boolean or null; got ${typeof value}. ` +
      'Keep everything else in the data.',
  );
}

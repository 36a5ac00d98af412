import { SessionArgumentError } from '../errors/caller.errors.js';
import type { SessionMetadata } from './session-record.interface.js';

const MAX_IP = 64;
/** A client chooses its user agent freely; longer ones are cut, because no device list shows more. */
const MAX_USER_AGENT = 512;
const MAX_LABEL = 128;
const KNOWN = ['ip', 'userAgent', 'label'];
/** Parts that the module sets itself: whoever passes a session's metadata on passes them too, to no effect. */
const OWN = ['rotatedAt'];

/**
 * Metadata as it is stored: known parts only, bounded, frozen. Absent parts are left out, so that
 * `{ userAgent: request.headers['user-agent'] }` may be passed as it is.
 *
 * @throws {SessionArgumentError} for an unknown part, a part that is no string, or a label over 128 characters
 */
export function checkMetadata(metadata: SessionMetadata = {}): SessionMetadata {
  for (const [part, value] of Object.entries(metadata) as [string, unknown][]) {
    if (OWN.includes(part)) continue;
    if (!KNOWN.includes(part))
      throw new SessionArgumentError(`metadata.${part}`, `is not known. Known: ${KNOWN.join(', ')}.`);
    if (value !== undefined && typeof value !== 'string') {
      throw new SessionArgumentError(
        `metadata.${part}`,
        `must be a string; got ${value === null ? 'null' : typeof value}.`,
      );
    }
  }
  const { ip, userAgent, label } = metadata;
  if (label !== undefined && label.length > MAX_LABEL) {
    throw new SessionArgumentError(
      'metadata.label',
      `must have at most ${MAX_LABEL} characters; got ${label.length}.`,
    );
  }
  return Object.freeze({
    ...(ip !== undefined && { ip: ip.slice(0, MAX_IP) }),
    ...(userAgent !== undefined && { userAgent: userAgent.slice(0, MAX_USER_AGENT) }),
    ...(label !== undefined && { label }),
  });
}

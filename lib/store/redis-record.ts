import { randomBytes } from 'node:crypto';
import type { LoadedSession, NewSession } from '../core/session-store.js';
import type { SessionMetadata, SessionRecord } from '../core/session-record.interface.js';

/**
 * The text of a record in Redis. A fixed-offset header that scripts read without decoding anything, then what only
 * this process reads:
 *
 * ```
 * 1 <version:16> <nonce:7> <lastAccess:13> <idle:11> <absolute:13> <createdAt:13> <user> <metadata JSON>\n<data>
 * ```
 *
 * Numbers are decimal with leading zeros; times are milliseconds; `user` is percent-encoded and empty when anonymous,
 * metadata empty when there is none; the id is the key's. `1` is the layout. A session that is being moved to another
 * partition reads `M <nonce:7> <record>` and counts as absent; it may be put back for a few seconds, and its key outlives
 * them for the sweep. The id of one whose token was rotated may hold `A <new id:23> <until when reads follow it:13>` for a
 * while.
 */
const BODY = 67; // createdAt starts here
const USER = 81;

/** The mark that stands for a session on its way to another partition. */
export function isMoved(text: string): boolean {
  return text.charCodeAt(0) === 77; // 'M'
}

/** The record beneath such a mark. */
export function unmarked(text: string): string {
  return text.slice(10);
}

/** What took the place of a session whose token was rotated; null where the text says nothing of the kind. */
export function aliasOf(text: string): { readonly id: string; readonly readableUntil: number } | null {
  if (text.charCodeAt(0) !== 65 /* 'A' */) return null;
  return { id: text.slice(2, 25), readableUntil: Number(text.slice(26, 39)) };
}

/** The record under `id`, or null when the text is not one of ours. */
export function parseRecord(id: string, text: string): SessionRecord | null {
  if (text.charCodeAt(0) !== 49 /* '1' */ || text.length <= USER) return null;
  const userEnd = text.indexOf(' ', USER);
  const metadataEnd = text.indexOf('\n', userEnd + 1);
  if (userEnd < 0 || metadataEnd < 0) return null;
  try {
    const record = {
      id,
      userId: decodeUserId(text.slice(USER, userEnd)),
      version: digits(text, 2, 18),
      createdAt: digits(text, BODY, 80),
      lastAccess: digits(text, 27, 40),
      idleTimeout: digits(text, 41, 52),
      absoluteDeadline: digits(text, 53, 66),
      metadata: parseMetadata(text.slice(userEnd + 1, metadataEnd)),
      data: detached(text, metadataEnd + 1),
    };
    const numbersSum =
      record.version + record.createdAt + record.lastAccess + record.idleTimeout + record.absoluteDeadline;
    return Number.isFinite(numbersSum) ? record : null;
  } catch {
    return null; // malformed percent-encoding or JSON: the caller reports the record as undecodable
  }
}

/** The share of the header in more text than this is not worth a copy. */
const MAX_DETACHED = 4_096;

/**
 * The rest of the text from `start` on, as a string of its own: a slice keeps all of the text in memory, and so would the
 * near cache for as long as it keeps the record.
 */
function detached(text: string, start: number): string {
  const rest = text.slice(start);
  return text.length > MAX_DETACHED ? rest : Buffer.from(rest).toString();
}

/** The number that stands there; NaN where something else does. Twice as fast as `Number` of a slice. */
function digits(text: string, from: number, to: number): number {
  let value = 0;
  for (let at = from; at < to; at++) {
    const digit = text.charCodeAt(at) - 48;
    if (!(digit >= 0 && digit <= 9)) return NaN;
    value = value * 10 + digit;
  }
  return value;
}

const NO_METADATA: SessionMetadata = Object.freeze({});

export function parseMetadata(json: string): SessionMetadata {
  if (json === '' || json === '{}') return NO_METADATA;
  const value: unknown = JSON.parse(json);
  if (typeof value !== 'object' || value === null) throw new TypeError('metadata is not an object');
  return Object.freeze(value);
}

/** Metadata as a script found it in a record; empty where it cannot be read. */
export function readMetadata(json: string): SessionMetadata {
  try {
    return parseMetadata(json);
  } catch {
    return NO_METADATA;
  }
}

/**
 * What follows the header and the creation time: `<user> <metadata, empty where there is none>\n<data>`.
 *
 * @param user encoded
 */
export function formatTail(user: string, metadata: SessionMetadata, data: string): string {
  const json = JSON.stringify(metadata);
  return `${user} ${json === '{}' ? '' : json}\n${data}`;
}

/** A version as it stands in the header, for the scripts' comparison. */
export function formatVersion(version: number): string {
  return String(version).padStart(16, '0');
}

/** An idle timeout as it stands in the header. */
export function formatIdle(idleTimeout: number): string {
  return String(idleTimeout).padStart(11, '0');
}

/** A userId as it stands in key names and records: without space, brace or control character; empty if anonymous. */
export function encodeUserId(userId: string | null): string {
  return userId === null ? '' : encodeURIComponent(userId);
}

export function decodeUserId(encoded: string): string | null {
  return encoded === '' ? null : decodeURIComponent(encoded);
}

const NONCE = 7;
let nonces = '';
let nextNonce = 0;

/**
 * 42 random bits as 7 characters: tells our own write from another's when a reply is lost. Of two writers at once, one in
 * four million million would be wrong. No secret, so that many are drawn at once.
 */
export function newNonce(): string {
  if (nextNonce === nonces.length) {
    nonces = randomBytes(750 * NONCE).toString('base64url'); // 1,000 of them
    nextNonce = 0;
  }
  return nonces.slice(nextNonce, (nextNonce += NONCE));
}

/** The record that a script made of `session`. @param reply the head of its text, and the time (13 digits) */
export function createdRecord(session: NewSession, reply: string): LoadedSession {
  const { id, userId, idleTimeout, metadata, data } = session;
  return {
    record: {
      id,
      userId,
      version: digits(reply, 2, 18),
      createdAt: digits(reply, BODY, 80),
      lastAccess: digits(reply, 27, 40),
      idleTimeout,
      absoluteDeadline: digits(reply, 53, 66),
      metadata,
      data,
    },
    now: digits(reply, USER, USER + 13),
  };
}

/** @param reply of a script: version, lastAccess and the time, with 16, 13 and 13 digits */
export function parseTimes(reply: string): { version: number; lastAccess: number; now: number } {
  return {
    version: digits(reply, 0, 16),
    lastAccess: digits(reply, 17, 30),
    now: digits(reply, 31, 44),
  };
}

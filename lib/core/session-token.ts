import { hash } from 'node:crypto';
import { withRandomBytes } from './random-pool.js';

/**
 * Tokens and ids.
 *
 * A generated token is base64url of 33 bytes: one partition byte and 32 bytes from the operating system's random
 * generator (256 bits): 44 characters without padding. Its id is base64url of 17 bytes: the partition byte and the
 * first 16 bytes of SHA-256 of the token: 23 characters. The id is public; from it nobody gets to the token.
 */
export interface TokenIdentity {
  readonly id: string;
  readonly partition: number;
  /** True for a token the app chose itself (`allowGivenTokens`). */
  readonly given: boolean;
}

const GENERATED = /^[A-Za-z0-9_-]{44}$/;
const GIVEN = /^[A-Za-z0-9._~-]{16,128}$/;
const ID = /^[A-Za-z0-9_-]{23}$/;

/** The longest string that can be a token; anything longer is refused before it is looked at. */
export const MAX_TOKEN_LENGTH = 128;

/** A new token in `partition`. */
export function generateToken(partition: number): string {
  return withRandomBytes(33, (bytes) => {
    bytes[0] = partition;
    return bytes.toString('base64url');
  });
}

/** A random partition, for sessions without a user. */
export function randomPartition(partitions: number): number {
  // 65,536 is a multiple of every power of two; for other counts the bias is below 1/256 and only shifts load.
  return withRandomBytes(2, (bytes) => bytes.readUInt16BE(0) % partitions);
}

/** The partition of a user: all of a user's sessions and their index live there. */
export function partitionOfUser(userId: string, partitions: number): number {
  const digest = hash('sha256', `user\0${userId}`, 'binary'); // as text: see identifyToken
  const byte = (at: number): number => digest.charCodeAt(at);
  return (((byte(0) << 24) | (byte(1) << 16) | (byte(2) << 8) | byte(3)) >>> 0) % partitions;
}

/**
 * What a string from outside stands for, or null when it cannot be a token: wrong type, length, alphabet or
 * partition. Nothing but this check ever sees a malformed token.
 */
export function identifyToken(token: unknown, partitions: number, allowGiven: boolean): TokenIdentity | null {
  if (typeof token !== 'string' || token.length > MAX_TOKEN_LENGTH) return null;
  if (GENERATED.test(token)) {
    const partition = firstByte(token);
    if (partition >= partitions) return null;
    // As text: a Buffer for the digest costs more than the hash.
    return { id: makeId(partition, hash('sha256', token, 'binary')), partition, given: false };
  }
  if (!allowGiven || !GIVEN.test(token)) return null;
  // A domain of its own: no given token can ever have the id of a generated one.
  const digest = hash('sha256', `given\0${token}`, 'buffer');
  const partition = digest.readUInt32BE(16) % partitions;
  return { id: makeId(partition, digest.toString('latin1')), partition, given: true };
}

/** True for a string that `create(data, { token })` may take: 16 to 128 of `A-Za-z0-9._~-`, not of our own form. */
export function isGivenToken(token: unknown): token is string {
  return (
    typeof token === 'string' &&
    token.length <= MAX_TOKEN_LENGTH &&
    GIVEN.test(token) &&
    !GENERATED.test(token)
  );
}

/**
 * A new id as the module gives one to a session of this user (null: of nobody), for the tests of a store: all ids of a
 * user begin with the same byte, their partition. There is no token for it.
 *
 * @param partitions as in the option `partitions`
 * @publicApi
 */
export function newSessionId(userId: string | null, partitions = 16): string {
  const partition = userId === null ? randomPartition(partitions) : partitionOfUser(userId, partitions);
  return identifyToken(generateToken(partition), partitions, false)!.id;
}

/**
 * The public id of the session that `create(data, { token })` makes for this token; null for a string that it would not
 * take. For what keeps sessions under names of its own.
 *
 * @param partitions as the option of that name
 * @publicApi
 */
export function idOfGivenToken(token: unknown, partitions = 16): string | null {
  return isGivenToken(token) ? identifyToken(token, partitions, true)!.id : null;
}

/** The partition of an id, or null when the string cannot be an id of a deployment with `partitions`. */
export function partitionOfId(id: unknown, partitions: number): number | null {
  if (typeof id !== 'string' || id.length !== 23 || !ID.test(id)) return null;
  const partition = firstByte(id);
  return partition < partitions ? partition : null;
}

const idBytes = Buffer.alloc(17);

/** @param digest a character for each byte */
function makeId(partition: number, digest: string): string {
  idBytes[0] = partition;
  idBytes.write(digest, 1, 16, 'latin1');
  return idBytes.toString('base64url');
}

/** The first byte of a base64url string: 6 bits of its first character and 2 of its second. */
function firstByte(text: string): number {
  return (sextet(text.charCodeAt(0)) << 2) | (sextet(text.charCodeAt(1)) >> 4);
}

function sextet(code: number): number {
  if (code >= 97) return code - 71; // a-z
  if (code === 95) return 63; // _
  if (code >= 65) return code - 65; // A-Z
  if (code >= 48) return code + 4; // 0-9
  return 62; // -
}

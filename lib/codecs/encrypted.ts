import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  randomBytes,
  type KeyObject,
} from 'node:crypto';
import {
  SessionArgumentError,
  type SessionCodec,
  type SessionCodecContext,
  type SimpleCodec,
} from '../index.js';
import { bodyOf, encodedOf } from './body.js';
import { checkCodec, checkNames } from './codec-checks.js';

/**
 * 32 random bytes, or the same as text in hex or base64, from a secret store: `openssl rand -base64 32` makes one. Not a
 * passphrase.
 *
 * @publicApi
 */
export type EncryptionKey = Uint8Array | string;

/** @publicApi */
export interface EncryptedOptions {
  /**
   * The first key encrypts; all of them decrypt. To change keys, put the new one in front on every process that reads (a
   * process that lacks it takes such sessions for absent), and drop the old one after `absoluteTimeout`. One key is good
   * for 2^32 writes: at 500 a second change it every three months.
   */
  keys: readonly EncryptionKey[];
}

/*
 * The envelope, in bytes: 1 version, 8 key id, 12 IV, 16 tag, then the ciphertext of 1 kind (text or bytes) and what the
 * inner codec wrote. The header up to the IV, the session's id and its user are authenticated with it.
 */
const VERSION = 1;
const HEADER = 9;
const IV = 12;
const TAG = 16;
const START = HEADER + IV + TAG;

interface Key {
  readonly header: Buffer;
  readonly secret: KeyObject;
}

/**
 * Encrypts what another codec writes: AES-256-GCM, a random IV for each write, bound to the session's id and user, so that
 * data copied from one record to another is refused like data that was changed. What
 * is stored, and cache files, hold nothing readable of it; the memory of the process does, of sessions it has read. Metadata,
 * ids, userIds and times are not data: they stay readable, and whoever may write to the store can change them. Nor can it be
 * told whether a record was put back to an earlier value of its own. The length still tells that of the data.
 *
 * @throws {SessionArgumentError} for a wrong key, never showing it
 * @publicApi
 */
export function encrypted(inner: SessionCodec | SimpleCodec, options: EncryptedOptions): SessionCodec {
  const codec = checkCodec('encrypted(codec)', inner);
  checkNames('encrypted(…, options)', options, ['keys']);
  const keys = readKeys(options.keys);
  const newest = keys[0]!;
  return {
    encode(data, context) {
      const { kind, bytes } = bodyOf(codec.encode(data, context));
      const iv = randomBytes(IV);
      const cipher = createCipheriv('aes-256-gcm', newest.secret, iv, { authTagLength: TAG });
      cipher.setAAD(authenticated(newest.header, context));
      const ciphertext = [cipher.update(Uint8Array.of(kind)), cipher.update(bytes), cipher.final()];
      return Buffer.concat([newest.header, iv, cipher.getAuthTag(), ...ciphertext]);
    },

    decode(encoded, context) {
      if (typeof encoded === 'string' || encoded.length <= START) throw new TypeError('not encrypted');
      const envelope = Buffer.from(encoded.buffer, encoded.byteOffset, encoded.byteLength);
      const header = envelope.subarray(0, HEADER);
      const key = keys.find((candidate) => candidate.header.equals(header));
      if (key === undefined) throw new TypeError('not encrypted by a known key');
      const decipher = createDecipheriv('aes-256-gcm', key.secret, envelope.subarray(HEADER, HEADER + IV), {
        authTagLength: TAG,
      });
      decipher.setAAD(authenticated(header, context));
      decipher.setAuthTag(envelope.subarray(HEADER + IV, START));
      const body = Buffer.concat([decipher.update(envelope.subarray(START)), decipher.final()]);
      return codec.decode(encodedOf(body[0], body.subarray(1)), context);
    },
  };
}

/** JSON, so that no two pairs of id and user read alike. */
function authenticated(header: Buffer, { id, userId }: SessionCodecContext): Buffer {
  return Buffer.concat([header, Buffer.from(JSON.stringify([id, userId]))]);
}

function readKeys(keys: unknown): Key[] {
  if (!Array.isArray(keys) || keys.length === 0)
    throw new SessionArgumentError(
      'keys',
      'must be an array of at least one key, the newest first. Write { keys: [newest, …older] }.',
    );
  const read = keys.map((key: unknown, index) => keyOf(bytesOf(key, `keys[${index}]`)));
  for (const [index, { header }] of read.entries()) {
    const twin = read.findIndex((other) => other.header.equals(header));
    if (twin < index)
      throw new SessionArgumentError(`keys[${index}]`, `is the same as keys[${twin}]. Drop one of them.`);
  }
  return read;
}

/** The id in the header is made by a one-way function, from a word that serves for nothing else. */
function keyOf(bytes: Buffer): Key {
  const id = createHmac('sha256', bytes)
    .update('nestjs-sessionkit key id')
    .digest()
    .subarray(0, HEADER - 1);
  return { header: Buffer.concat([Uint8Array.of(VERSION), id]), secret: createSecretKey(bytes) };
}

function bytesOf(key: unknown, argument: string): Buffer {
  const bytes =
    key instanceof Uint8Array ? Buffer.from(key) : typeof key === 'string' ? bytesOfText(key) : null;
  if (bytes?.length !== 32) {
    throw new SessionArgumentError(
      argument,
      'must be 32 bytes, as a Buffer or as text in hex (64 characters) or base64 (44). `openssl rand -base64 32` makes one.',
    );
  }
  if (bytes.every((byte) => byte === bytes[0]))
    throw new SessionArgumentError(argument, 'is one byte 32 times. `openssl rand -base64 32` makes a key.');
  return bytes;
}

function bytesOfText(text: string): Buffer | null {
  if (/^[0-9a-f]{64}$/i.test(text)) return Buffer.from(text, 'hex');
  return /^[A-Za-z0-9+/_-]{43}=?$/.test(text) ? Buffer.from(text, 'base64') : null;
}

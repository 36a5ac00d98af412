import { isDeepStrictEqual, toUSVString } from 'node:util';
import { SessionDataError, SessionOptionsError } from '../errors/caller.errors.js';
import {
  defaultCodec,
  isLosslessJson,
  isPlainObject,
  MAX_PLAIN_LENGTH,
  type DataCodec,
  type SessionCodec,
  type SessionCodecContext,
} from './codec.js';
import { checkStorable, pathOfProto, pathOfRefused } from './storable-data.js';

/**
 * The option `codec` as the core uses it; the default codec as it is, so that it costs nothing more.
 *
 * @throws {SessionOptionsError} if the codec does not keep a first value
 */
export function dataCodecOf(codec: SessionCodec | undefined): DataCodec {
  if (codec === undefined || codec === defaultCodec) return defaultCodec;
  const used = new CustomCodec(codec);
  try {
    const context = { id: 'A'.repeat(23), userId: null };
    const data = { text: 'ä', list: [1, { two: 2 }], empty: null };
    if (isDeepStrictEqual(used.decode(used.encode(data, context), context), data)) return used;
  } catch (cause) {
    throw new SessionOptionsError(
      'codec',
      `did not decode what it had encoded: ${cause instanceof SessionDataError ? cause.message : 'it threw an error'}. ` +
        'encode must return a string or bytes, and decode make a plain object of them, both without a promise.',
      { cause },
    );
  }
  throw new SessionOptionsError(
    'codec',
    'decoded something else than it had encoded. decode must make of what encode returns the same data again.',
  );
}

/** Begins the text of bytes. Base64 has none inside, so that a string which begins with it gets one more. */
const BYTES = '=';

class CustomCodec implements DataCodec {
  readonly isCanonical = false;

  constructor(private readonly codec: SessionCodec) {}

  encode(data: object, { id, userId }: SessionCodecContext): string {
    const context = { id, userId };
    try {
      const hasProto = checkStorable(data);
      const text = textOf(this.codec.encode(data, context));
      // A name that some codecs change, and that others take for the object's prototype.
      if (hasProto && !isDeepStrictEqual(this.decode(text, context), data)) {
        throw new SessionDataError(pathOfProto(data), 'does not survive the option "codec". Rename the key.');
      }
      return text;
    } catch (error) {
      if (error instanceof SessionDataError) throw error;
      // Its message may quote the data.
      throw new SessionDataError(
        pathOfRefused(data, (value) => this.#encodes(value, context)),
        'cannot be encoded by the option "codec". Store a plain value made from it.',
      );
    }
  }

  decode(text: string, { id, userId }: SessionCodecContext): Record<string, unknown> {
    const value = this.codec.decode(encodedOf(text), { id, userId });
    if (typeof value !== 'object' || value === null || !isPlainObject(value))
      throw new TypeError('not a plain object');
    return Object.getPrototypeOf(value) === null ? { ...value } : (value as Record<string, unknown>);
  }

  decodePlain(text: string, context: SessionCodecContext): Record<string, unknown> | null {
    if (text.length > 2 * MAX_PLAIN_LENGTH) return null;
    const data = this.decode(text, context);
    return isLosslessJson(data) && JSON.stringify(data).length <= MAX_PLAIN_LENGTH ? data : null;
  }

  #encodes(value: unknown, context: SessionCodecContext): boolean {
    try {
      this.codec.encode({ value }, context);
      return true;
    } catch {
      return false;
    }
  }
}

function textOf(encoded: unknown): string {
  if (encoded instanceof Uint8Array) {
    const { buffer, byteOffset, byteLength } = encoded;
    return BYTES + Buffer.from(buffer, byteOffset, byteLength).toString('base64');
  }
  // Stores keep UTF-8.
  if (typeof encoded === 'string' && toUSVString(encoded) === encoded)
    return encoded.startsWith(BYTES) ? BYTES + encoded : encoded;
  const got =
    typeof encoded === 'string' ? 'a string with lone surrogates' : `a value of type ${typeof encoded}`;
  throw new SessionDataError(
    '',
    `was encoded by the option "codec" as ${got}. Return well-formed text or bytes.`,
  );
}

function encodedOf(text: string): string | Uint8Array {
  if (!text.startsWith(BYTES)) return text;
  if (text.startsWith(BYTES, 1)) return text.slice(1);
  const base64 = text.slice(1);
  // Not in Node's shared pool, which decoded views would show.
  const bytes = Buffer.allocUnsafeSlow(Buffer.byteLength(base64, 'base64'));
  const length = bytes.write(base64, 'base64');
  // Node's decoder skips what is not base64.
  if (length !== bytes.length || bytes.toString('base64') !== base64) throw new TypeError('not base64');
  return bytes;
}

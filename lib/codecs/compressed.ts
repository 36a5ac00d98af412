import { constants, deflateSync, inflateSync } from 'node:zlib';
import { SessionArgumentError, SessionDataError, type SessionCodec, type SimpleCodec } from '../index.js';
import { bodyOf, encodedOf } from './body.js';
import { checkCodec, checkNames } from './codec-checks.js';

/** @publicApi */
export interface CompressedOptions {
  /** Bytes up to which what the codec wrote stays as it is. @default 1024 */
  above?: number;
  /**
   * Most bytes of what the codec wrote, before compression: more is not written, and not read either, so that a small
   * record cannot fill the memory. (`maxDataBytes` counts what is stored.) At most 1 GiB.
   * @default 4194304
   */
  maxBytes?: number;
}

/** Begins what is compressed; 0xC1 begins no text in UTF-8 and no message of MessagePack. Then the kind, then zlib. */
const MAGIC = Buffer.from([0xc1, 0x7a, 0x6c]);
const START = MAGIC.length + 1;

/**
 * Compresses what another codec writes where it is large and that makes it smaller. What is not compressed is read as it
 * is, so this can be put over the codec of living sessions, with any `above`.
 *
 * zlib at its fastest level, because this holds up the process (Node 20 has no zstd, and Brotli no checksum). The checksum
 * shows damage but not intent: for that put `encrypted` around it, `encrypted(compressed(defaultCodec), { keys })`; the
 * other way round nothing would get smaller.
 *
 * The length of what is compressed and then encrypted tells something of its content where a visitor can put text of
 * their own beside a secret and see how long the record gets (as CRIME did in TLS): leave it out where that may be.
 *
 * @throws {SessionArgumentError} for a wrong option
 * @publicApi
 */
export function compressed(inner: SessionCodec | SimpleCodec, options: CompressedOptions = {}): SessionCodec {
  const codec = checkCodec('compressed(codec)', inner);
  checkNames('compressed(…, options)', options, ['above', 'maxBytes']);
  const above = checkSize('above', options.above, 1_024);
  const maxBytes = checkSize('maxBytes', options.maxBytes, 4 * 1_024 * 1_024);
  return {
    encode(data, context) {
      const encoded = codec.encode(data, context);
      if (typeof encoded === 'string' && encoded.length * 3 <= above) return encoded;
      const { kind, bytes } = bodyOf(encoded);
      if (bytes.length > maxBytes)
        throw new SessionDataError(
          '',
          `is too large: ${bytes.length} bytes before compression, and maxBytes is ${maxBytes}.`,
        );
      // Bytes that begin as ours do would be taken for compressed.
      const isAmbiguous = typeof encoded !== 'string' && startsWithMagic(bytes);
      if (bytes.length <= above && !isAmbiguous) return encoded;
      const packed = deflateSync(bytes, { level: constants.Z_BEST_SPEED });
      if (START + packed.length >= bytes.length && !isAmbiguous) return encoded;
      return Buffer.concat([MAGIC, Uint8Array.of(kind), packed]);
    },

    decode(encoded, context) {
      if (typeof encoded === 'string' || !startsWithMagic(encoded)) return codec.decode(encoded, context);
      const { buffer, engine } = inflateSync(encoded.subarray(START), {
        maxOutputLength: maxBytes,
        info: true,
      }) as unknown as { buffer: Buffer; engine: { bytesWritten: number } };
      if (engine.bytesWritten !== encoded.length - START) throw new TypeError('more than was compressed');
      return codec.decode(encodedOf(encoded[START - 1], buffer), context);
    },
  };
}

function startsWithMagic(bytes: Uint8Array): boolean {
  return bytes.length >= START && MAGIC.every((byte, index) => bytes[index] === byte);
}

function checkSize(name: string, value: unknown, otherwise: number): number {
  if (value === undefined) return otherwise;
  if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 2 ** 30)
    return value as number;
  throw new SessionArgumentError(
    name,
    `must be a whole number of bytes from 0 to ${2 ** 30}; got ${typeof value === 'number' ? value : typeof value}. Write e.g. ${otherwise}.`,
  );
}

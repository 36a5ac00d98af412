import { SessionArgumentError, type SessionCodec, type SimpleCodec } from '../index.js';
import { checkCodec } from './codec-checks.js';

/**
 * Changes the codec under living sessions: the first one writes; what it refuses to read, the others are asked for in
 * turn. Each session changes over with its next write, so the former codec can be dropped after `absoluteTimeout`.
 *
 * `firstOf(encrypted(defaultCodec, { keys }), defaultCodec)` turns encryption on. As long as it reads what is not
 * encrypted, whoever can write to the store can still put data there without a key.
 *
 * @throws {SessionArgumentError} if one is no codec
 * @publicApi
 */
export function firstOf(
  first: SessionCodec | SimpleCodec,
  ...former: (SessionCodec | SimpleCodec)[]
): SessionCodec {
  const codecs = [first, ...former].map((codec, index) => checkCodec(`firstOf(…)[${index}]`, codec));
  if (codecs.length < 2)
    throw new SessionArgumentError('firstOf(…)', 'needs the new codec and at least one former. Give both.');
  return {
    encode: (data, context) => codecs[0]!.encode(data, context),
    decode(encoded, context) {
      for (const codec of codecs) {
        try {
          const data = codec.decode(encoded, context);
          // Binary formats make something of nearly everything.
          if (typeof data === 'object' && data !== null && isPlain(data)) return data;
        } catch {
          // The next one may know it.
        }
      }
      throw new TypeError('of none of the codecs');
    },
  };
}

function isPlain(data: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(data);
  return prototype === Object.prototype || prototype === null;
}

import { SessionArgumentError, type SessionCodec } from '../index.js';

/** @throws {SessionArgumentError} */
export function checkCodec(argument: string, codec: unknown): SessionCodec {
  const { encode, decode } = (codec ?? {}) as Partial<SessionCodec>;
  if (typeof encode === 'function' && typeof decode === 'function') return codec as SessionCodec;
  throw new SessionArgumentError(
    argument,
    `must be a codec, with encode and decode; got ${codec === null ? 'null' : typeof codec}. Write e.g. defaultCodec.`,
  );
}

/** @throws {SessionArgumentError} */
export function checkNames(argument: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new SessionArgumentError(
      argument,
      `must be an object; got ${options === null ? 'null' : typeof options}.`,
    );
  }
  const unknown = Object.keys(options).find((name) => !known.includes(name));
  if (unknown !== undefined)
    throw new SessionArgumentError(
      argument,
      `has no ${JSON.stringify(unknown.slice(0, 40))}. Known here: ${known.join(', ')}.`,
    );
}

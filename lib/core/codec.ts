import { DevalueError, parse, stringify } from 'devalue';
import { SessionDataError } from '../errors/caller.errors.js';

/**
 * The session whose data is encoded, for codecs that bind the one to the other. Neither changes while a session keeps its
 * id; data that passes on to another id (sign-in, `regenerate`, `rotateEvery`) is decoded for the old and encoded anew.
 *
 * @publicApi
 */
export interface SessionCodecContext {
  /** Public id (23 characters). */
  readonly id: string;
  /** Null for an anonymous session. */
  readonly userId: string | null;
}

/**
 * Option `codec`: turns session data into what stores, copies and cache files hold, and back. Both synchronous.
 *
 * @publicApi
 */
export interface SessionCodec {
  /**
   * Called with the data of one session, an object of fields; functions, symbols and keys that the codec would lose have
   * been refused before. Well-formed text is kept as it is, bytes as base64.
   *
   * @throws {SessionDataError} naming the field that cannot be kept; for any other error the module looks for the field
   */
  encode(data: object, context: SessionCodecContext): string | Uint8Array;
  /**
   * Must return a new plain object each time, and throw for what it cannot trust: the session is then `null`, and the event
   * `undecodable` tells of it.
   */
  decode(encoded: string | Uint8Array, context: SessionCodecContext): unknown;
}

/**
 * A codec that does not ask whose data it is: `new Packr({ structuredClone: true })`, or `JSON.stringify` and `JSON.parse`.
 * It is called with the context all the same.
 *
 * @publicApi
 */
export interface SimpleCodec {
  encode(data: object): string | Uint8Array;
  decode(encoded: string | Uint8Array): unknown;
}

/** A codec as the core uses it: text only. */
export interface DataCodec {
  /** Equal data always makes the same text, whosever it is. */
  readonly isCanonical: boolean;
  /** @throws {SessionDataError} naming the field that cannot be kept */
  encode(data: object, context: SessionCodecContext): string;
  /** @throws when the text is not of this codec */
  decode(text: string, context: SessionCodecContext): Record<string, unknown>;
  /** The data if it is what `JSON.parse` makes (objects, arrays and primitives), and short enough to keep; else null. */
  decodePlain(text: string, context: SessionCodecContext): Record<string, unknown> | null;
}

/** Characters of JSON up to which a record's decoded data is kept beside it, while the near cache keeps that. */
export const MAX_PLAIN_LENGTH = 8_192;

/**
 * The default codec: plain JSON wherever JSON loses nothing, so that it is fast and readable in `redis-cli`; otherwise
 * the format of `devalue`, which also keeps Date, Buffer and typed arrays, Map, Set, bigint, undefined, NaN, -0, RegExp,
 * URL and cycles. JSON of an object starts with `{`, devalue's text with `[`: no marker is needed.
 *
 * Keys named `__proto__` stay what they are: data. Functions, symbols and class instances are refused, because they
 * would come back as something else.
 *
 * @publicApi
 */
export const defaultCodec = {
  isCanonical: true,

  encode(data: object): string {
    if (isLosslessJson(data)) return JSON.stringify(data);
    try {
      return stringify(data, REDUCERS);
    } catch (error) {
      // devalue names the path as '.cart.items[0]'; its message never holds a value.
      if (error instanceof DevalueError)
        throw new SessionDataError(error.path.replace(/^\./, ''), refusal(error));
      throw new SessionDataError('', 'cannot be encoded: a getter or proxy in it threw. Store plain values.');
    }
  },

  decode(text: string): Record<string, unknown> {
    const value: unknown = text.startsWith('[') ? parse(text, REVIVERS) : JSON.parse(text);
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new TypeError('not an object');
    return value as Record<string, unknown>;
  },

  decodePlain(text: string): Record<string, unknown> | null {
    return text.length <= MAX_PLAIN_LENGTH && text.startsWith('{') ? defaultCodec.decode(text) : null;
  },
} satisfies SessionCodec & DataCodec;

/** Types that devalue alone would not keep, or not keep well. */
export const REDUCERS = {
  // '=' is an empty Buffer in base64; devalue takes an empty string for "not of this type".
  Buffer: (value: unknown) => Buffer.isBuffer(value) && (value.toString('base64') || '='),
  // devalue writes the whole ArrayBuffer under a view, and with it what else lies in Node's shared pool.
  View: (value: unknown) =>
    ArrayBuffer.isView(value) && value.byteLength < value.buffer.byteLength && withoutTheRest(value),
};

const REVIVERS = {
  Buffer: (base64: string) => Buffer.from(base64, 'base64'),
  View: (view: unknown) => view,
};

/** The same view on a copy of only the bytes it shows. */
function withoutTheRest(view: ArrayBufferView): ArrayBufferView {
  const { buffer, byteOffset, byteLength } = view;
  type ViewType = new (buffer: ArrayBufferLike) => ArrayBufferView;
  return new (view.constructor as ViewType)(buffer.slice(byteOffset, byteOffset + byteLength));
}

function refusal(error: DevalueError): string {
  if (error.message.includes('__proto__')) {
    return 'has a key named __proto__ beside values that JSON cannot hold. Rename the key.';
  }
  const what = /function/.test(error.message)
    ? 'is a function'
    : /symbol/i.test(error.message)
      ? 'is or has a symbol'
      : 'is an instance of a class';
  return `${what}, which cannot be stored. Store a plain value made from it.`;
}

/** True when JSON.parse(JSON.stringify(value)) is deeply equal to value. */
export function isLosslessJson(value: unknown, depth = 0): boolean {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return true;
    case 'number':
      return Number.isFinite(value) && !Object.is(value, -0);
    case 'object':
      break;
    default:
      return false;
  }
  if (value === null) return true;
  if (depth > 64) return false; // also ends cycles; devalue keeps those
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      if (!isLosslessJson(value[index], depth + 1)) return false; // a hole reads as undefined
    }
    return true;
  }
  if (!isPlainObject(value)) return false;
  if ('toJSON' in value) return false;
  for (const key in value) {
    if (!isLosslessJson((value as Record<string, unknown>)[key], depth + 1)) return false;
  }
  return Object.getOwnPropertySymbols(value).length === 0;
}

export function isPlainObject(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

import { DevalueError, parse, stringify } from 'devalue';
import { SessionDataError } from '../errors/caller.errors.js';

/** Turns session data into the text a store keeps, and back. */
export interface SessionCodec {
  /** @throws {SessionDataError} naming the field that cannot be kept */
  encode(data: object): string;
  /** @throws when the text is not of this codec */
  decode(text: string): Record<string, unknown>;
  /** True if `decode` makes of this text what `JSON.parse` makes: objects, arrays and primitives only. */
  isPlain(text: string): boolean;
}

/**
 * The default codec: plain JSON wherever JSON loses nothing, so that it is fast and readable in `redis-cli`; otherwise
 * the format of `devalue`, which also keeps Date, Buffer and typed arrays, Map, Set, bigint, undefined, NaN, -0, RegExp,
 * URL and cycles. JSON of an object starts with `{`, devalue's text with `[`: no marker is needed.
 *
 * Keys named `__proto__` stay what they are: data. Functions, symbols and class instances are refused, because they
 * would come back as something else.
 */
export const defaultCodec: SessionCodec = {
  encode(data) {
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

  decode(text) {
    const value: unknown = text.startsWith('[') ? parse(text, REVIVERS) : JSON.parse(text);
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new TypeError('not an object');
    return value as Record<string, unknown>;
  },

  isPlain: (text) => text.startsWith('{'),
};

/** Types that devalue alone would not keep, or not keep well. */
const REDUCERS = {
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
function isLosslessJson(value: unknown, depth = 0): boolean {
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
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null) return false;
  if ('toJSON' in value) return false;
  for (const key in value) {
    if (!isLosslessJson((value as Record<string, unknown>)[key], depth + 1)) return false;
  }
  return Object.getOwnPropertySymbols(value).length === 0;
}

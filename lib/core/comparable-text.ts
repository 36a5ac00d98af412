import { stringify } from 'devalue';
import { defaultCodec, isPlainObject, REDUCERS } from './codec.js';

/**
 * A text that two values share if they hold the same in the same order: what an unchanged draft is known by where the
 * codec makes another text of the same data each time. Never stored, and for any codec's values.
 */
export function comparableText(data: object): string {
  try {
    return defaultCodec.encode(data);
  } catch {
    // A value that the default codec refuses: an Error for example, which msgpackr keeps.
  }
  try {
    return `*${stringify(data, { ...REDUCERS, Other: described })}`;
  } catch {
    return `?${uncomparable++}`; // like nothing else: then it is written
  }
}

let uncomparable = 0;

/** What devalue can tell apart by itself. */
const NATIVE =
  /^\[object (Number|String|Boolean|BigInt|Date|RegExp|Map|Set|URL|URLSearchParams|Temporal\..*|ArrayBuffer|DataView|.*Array)\]$/;

/** All that can be seen of a value that the default codec does not know; false for the others. */
function described(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return false;
  const tag = Object.prototype.toString.call(value);
  const isPlain = isPlainObject(value);
  if (isPlain ? !Object.hasOwn(value, '__proto__') : NATIVE.test(tag)) return false;
  const fields = isPlain ? Object.keys(value) : Object.getOwnPropertyNames(value);
  const kind = isPlain ? '' : `${tag} ${value.constructor?.name}`;
  return [kind, fields.map((field) => [field, (value as Record<string, unknown>)[field]])];
}

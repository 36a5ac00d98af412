/*
 * Data as JSON.parse makes it: objects, arrays and primitives, without cycles. Reading a session is the hot path, and
 * both of these cost a fraction of what parsing and encoding do.
 */

type Fields = Record<string, unknown>;

/** A deep copy of what `JSON.parse` made. */
export function clonePlain<V>(value: V): V {
  return typeof value === 'object' && value !== null ? (cloneObject(value) as V) : value;
}

function cloneObject(value: object): object {
  if (Array.isArray(value)) {
    const copy: unknown[] = value.slice();
    for (let index = 0; index < copy.length; index++) {
      const item = copy[index];
      if (typeof item === 'object' && item !== null) copy[index] = cloneObject(item);
    }
    return copy;
  }
  // Takes over the hidden class, and makes a key named `__proto__` a field like any other.
  const copy: Fields = { ...value };
  for (const key in copy) {
    const item = copy[key];
    if (typeof item === 'object' && item !== null) copy[key] = cloneObject(item);
  }
  return copy;
}

/**
 * True only if `value` holds just what `plain`, which `JSON.parse` made, holds: then saving it would change nothing. The
 * order of the fields themselves does not count, because fields are merged one by one; further in it does. False wherever
 * that is not certain at a glance.
 */
export function isSamePlain(value: Fields, plain: Fields): boolean {
  return hasSameFields(value, plain, true);
}

/** @param plain an object or array */
function isSameObject(value: unknown, plain: object): boolean {
  if (typeof value !== 'object' || value === null) return false;
  if (!Array.isArray(plain)) return hasSameFields(value as Fields, plain as Fields, false);
  if (!Array.isArray(value) || value.length !== plain.length) return false;
  for (let index = 0; index < plain.length; index++) {
    const item: unknown = plain[index];
    // Nearly all are primitives: no call for these.
    if (typeof item === 'object' && item !== null) {
      if (!isSameObject(value[index], item)) return false;
    } else if (!Object.is(value[index], item)) return false;
  }
  return true;
}

function hasSameFields(value: Fields, plain: Fields, inAnyOrder: boolean): boolean {
  if (Object.getPrototypeOf(value) !== Object.prototype) return false;
  const keys = Object.keys(value);
  let count = 0;
  for (const key in plain) {
    if (key !== keys[count++] && !(inAnyOrder && keys.includes(key))) return false;
    const item = plain[key];
    if (typeof item === 'object' && item !== null) {
      if (!isSameObject(value[key], item)) return false;
    } else if (!Object.is(value[key], item)) return false;
  }
  return count === keys.length && Object.getOwnPropertySymbols(value).length === 0; // last: it costs most
}

/*
 * Data as JSON.parse makes it: objects, arrays and primitives, without cycles. Reading a session is the hot path, and
 * both of these cost a fraction of what parsing and encoding do.
 */

type Fields = Record<string, unknown>;

/** A deep copy of what `JSON.parse` made. */
export function clonePlain<V>(value: V): V {
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(clonePlain) as V;
  const copy: Fields = {};
  for (const key in value) {
    const item = value[key];
    const cloned: unknown = typeof item === 'object' ? clonePlain(item) : item;
    if (key === '__proto__') {
      Object.defineProperty(copy, key, {
        value: cloned,
        writable: true,
        enumerable: true,
        configurable: true,
      });
    } else copy[key] = cloned;
  }
  return copy as V;
}

/**
 * True only if `value` holds just what `plain`, which `JSON.parse` made, holds: then saving it would change nothing. The
 * order of the fields themselves does not count, because fields are merged one by one; further in it does. False wherever
 * that is not certain at a glance.
 */
export function isSamePlain(value: Fields, plain: Fields): boolean {
  if (!isPlainObject(value)) return false;
  const [keys, plainKeys] = [Object.keys(value), Object.keys(plain)];
  if (keys.length !== plainKeys.length) return false;
  for (let index = 0; index < keys.length; index++) {
    const key = plainKeys[index]!;
    // Nearly always in the same order.
    if (key !== keys[index] && !keys.includes(key)) return false;
    if (!isSameValue(value[key], plain[key])) return false;
  }
  return true;
}

function isSameValue(value: unknown, plain: unknown): boolean {
  if (typeof plain !== 'object' || plain === null) return Object.is(value, plain);
  if (typeof value !== 'object' || value === null) return false;
  if (Array.isArray(plain)) {
    if (!Array.isArray(value) || value.length !== plain.length) return false;
    for (let index = 0; index < plain.length; index++)
      if (!isSameValue(value[index], plain[index])) return false;
    return true;
  }
  if (!isPlainObject(value)) return false;
  const [keys, plainKeys] = [Object.keys(value), Object.keys(plain)];
  if (keys.length !== plainKeys.length) return false;
  for (let index = 0; index < keys.length; index++) {
    const key = keys[index]!;
    if (key !== plainKeys[index] || !isSameValue((value as Fields)[key], (plain as Fields)[key]))
      return false;
  }
  return true;
}

function isPlainObject(value: object): boolean {
  return (
    Object.getPrototypeOf(value) === Object.prototype && Object.getOwnPropertySymbols(value).length === 0
  );
}

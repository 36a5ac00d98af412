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
 * True only if `value` holds just what `plain`, which `JSON.parse` made, holds: then both encode alike, but for the order
 * of keys. False wherever that is not certain at a glance.
 */
export function isSamePlain(value: unknown, plain: unknown): boolean {
  if (typeof plain !== 'object' || plain === null) return Object.is(value, plain);
  if (typeof value !== 'object' || value === null) return false;
  if (Array.isArray(plain)) {
    if (!Array.isArray(value) || value.length !== plain.length) return false;
    for (let index = 0; index < plain.length; index++)
      if (!isSamePlain(value[index], plain[index])) return false;
    return true;
  }
  if (Object.getPrototypeOf(value) !== Object.prototype) return false;
  let keys = 0;
  for (const key in plain) {
    keys++;
    if (!Object.hasOwn(value, key) || !isSamePlain((value as Fields)[key], (plain as Fields)[key]))
      return false;
  }
  for (const _ in value) keys--;
  return keys === 0 && Object.getOwnPropertySymbols(value).length === 0;
}

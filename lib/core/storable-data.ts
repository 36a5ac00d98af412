import { SessionDataError } from '../errors/caller.errors.js';

/**
 * Refuses what no codec can keep but some drop without a word: functions and symbols.
 *
 * @returns whether a key named `__proto__` is anywhere in it
 * @throws {SessionDataError} naming the path
 */
export function checkStorable(data: object): boolean {
  const seen = new Set<object>();
  let hasProto = false;
  const check = (value: unknown, path: string): void => {
    if (typeof value === 'function') throw refusal(path, 'is a function');
    if (typeof value === 'symbol') throw refusal(path, 'is a symbol');
    if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || seen.has(value)) return;
    seen.add(value);
    if (Object.getOwnPropertySymbols(value).length > 0) throw refusal(path, 'has a symbol as a key');
    hasProto ||= Object.hasOwn(value, '__proto__');
    for (const [part, child] of partsOf(value)) {
      if (typeof child === 'object' || typeof child === 'function' || typeof child === 'symbol')
        check(child, path + part);
    }
  };
  check(data, '');
  return hasProto;
}

/** The path to the innermost part that `encodes` is false for. Slow: for data that is known to be refused. */
export function pathOfRefused(data: object, encodes: (value: unknown) => boolean): string {
  const seen = new Set<unknown>();
  let [value, path]: [unknown, string] = [data, ''];
  while (typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && !seen.has(value)) {
    seen.add(value);
    const refused = readableParts(value).find(([, child]) => !encodes(child));
    if (refused === undefined) break;
    path += refused[0];
    value = refused[1];
  }
  return shownPath(path);
}

/** The path to the first key named `__proto__`. */
export function pathOfProto(data: object): string {
  const holdsOne = (value: unknown): boolean => {
    try {
      return typeof value === 'object' && value !== null && checkStorable(value);
    } catch {
      return false;
    }
  };
  const parent = pathOfRefused(data, (value) => !holdsOne(value));
  return parent === '' ? '__proto__' : `${parent}.__proto__`;
}

/** None where a getter throws: then it is this object that is refused. */
function readableParts(value: object): [string, unknown][] {
  try {
    return partsOf(value);
  } catch {
    return [];
  }
}

/** Names of fields and numbers of items; never values, which the keys of a Map are too. */
function partsOf(value: object): [string, unknown][] {
  if (Array.isArray(value)) return value.map((item: unknown, index) => [`[${index}]`, item]);
  if (value instanceof Map) {
    return [...value].flatMap(([key, item], index): [string, unknown][] => [
      [`.keys()[${index}]`, key],
      [`.values()[${index}]`, item],
    ]);
  }
  if (value instanceof Set) return [...value].map((item: unknown, index) => [`.values()[${index}]`, item]);
  return Object.entries(value).map(([key, item]) => [
    /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`,
    item,
  ]);
}

function refusal(path: string, what: string): SessionDataError {
  return new SessionDataError(
    shownPath(path),
    `${what}, which cannot be stored. Store a plain value made from it.`,
  );
}

function shownPath(path: string): string {
  return path.replace(/^\./, '');
}

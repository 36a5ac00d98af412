/**
 * What sessions of your app hold. Empty here; add your fields by declaration merging, or give `SessionService` and
 * `ActiveSession` a type argument instead.
 *
 * ```ts
 * declare module 'nestjs-sessionkit' {
 *   interface SessionData { views?: number }
 * }
 * ```
 *
 * @publicApi
 */
// An empty interface is the point: it is there to be merged with.
export interface SessionData {}

/** Decoded data while nothing is known of its type. */
export type DataFields = Record<string, unknown>;

/**
 * A change of stored data: a patch laid over the top-level fields, or a function that gets the data and either changes
 * it and returns nothing, or returns **all** of the new data. Functions may run more than once.
 *
 * @publicApi
 */
export type DataChange<T extends object> = Partial<T> | ((data: T) => T | void | Promise<T | void>);

/** Changes of top-level fields, laid over whatever the store holds by then. */
export interface FieldPatch {
  readonly set: ReadonlyMap<string, unknown>;
  readonly remove: ReadonlySet<string>;
}

/** Sets a field as data, whatever its name: `__proto__` too is only a key. */
export function setField(data: DataFields, key: string, value: unknown): void {
  Object.defineProperty(data, key, { value, writable: true, enumerable: true, configurable: true });
}

/**
 * A class that wraps session data, so that `session.data` has its getters and methods. It is constructed with the
 * stored fields; those that its constructor does not take over are assigned afterwards. Its own enumerable fields are
 * what is stored.
 *
 * @publicApi
 */
export type SessionDataClass = new (fields: Record<string, unknown>) => object;

/** An instance of `dataClass` over the fields; a stored field never hides an accessor or a method of the class. */
export function wrapData(dataClass: SessionDataClass, fields: DataFields): DataFields {
  // Object.assign in a constructor would make it the instance's prototype.
  const { ['__proto__']: _, ...given } = fields;
  const data = new dataClass(given) as DataFields;
  for (const [key, value] of Object.entries(fields)) assignField(data, key, value);
  return data;
}

/** Sets a field of a draft; one that has the name of an accessor or a method of its class never hides that. */
export function assignField(data: DataFields, key: string, value: unknown): void {
  const property = ofClass(data, key);
  if (property === undefined) setField(data, key, value);
  else if (property.set !== undefined) data[key] = value;
}

/** True for a field of the data, and for a getter of its class; false for what every object inherits. */
export function hasField(data: object, key: string): boolean {
  return Object.hasOwn(data, key) || ofClass(data, key)?.get !== undefined;
}

/** What the class of an instance says of a name: a getter, a setter, a method. */
function ofClass(data: object, key: string): PropertyDescriptor | undefined {
  let level = Object.getPrototypeOf(data) as object | null;
  while (level !== null && level !== Object.prototype) {
    const property = Object.getOwnPropertyDescriptor(level, key);
    if (property !== undefined) return key === 'constructor' ? undefined : property;
    level = Object.getPrototypeOf(level) as object | null;
  }
  return undefined;
}

/** A copy of `data` with the patch laid over. */
export function applyPatch(data: DataFields, patch: FieldPatch): DataFields {
  const entries = new Map(Object.entries(data));
  for (const key of patch.remove) entries.delete(key);
  for (const [key, value] of patch.set) entries.set(key, value);
  // fromEntries defines properties: a field named __proto__ stays a field.
  return Object.fromEntries(entries);
}

/** Lays the patch over `data` itself. */
export function applyInPlace(data: DataFields, patch: FieldPatch): void {
  for (const key of patch.remove) delete data[key];
  for (const [key, value] of patch.set) assignField(data, key, value);
}

/** Which top-level fields differ, by their encoded form. */
export function diffFields(
  before: DataFields,
  after: DataFields,
  encode: (data: object) => string,
): FieldPatch {
  const set = new Map<string, unknown>();
  for (const [key, value] of Object.entries(after)) {
    if (!Object.hasOwn(before, key) || !isSame(before[key], value, encode)) set.set(key, value);
  }
  const remove = new Set(Object.keys(before).filter((key) => !Object.hasOwn(after, key)));
  return { set, remove };
}

function isSame(before: unknown, after: unknown, encode: (data: object) => string): boolean {
  if (Object.is(before, after)) return true;
  // Only objects need the codec's eye: two different primitives never encode alike.
  if (typeof before !== 'object' || typeof after !== 'object') return false;
  return encode({ value: before }) === encode({ value: after });
}

import type { SessionRecord } from '../index.js';
import type { ExpressFields } from './foreign-store.js';

/** The cookie of an express-session as it is kept: its settings; `expires` only where no `originalMaxAge` renews it. */
export type StoredCookie = Record<string, unknown>;

/** A session taken apart: the JSON of each field, so that fields can be compared, and its cookie. */
export interface SessionParts {
  readonly fields: ReadonlyMap<string, string>;
  readonly cookie: StoredCookie;
}

/** Cookies whose times are less apart than this are the same: setting one takes a moment, which express-session counts. */
const JITTER_MS = 1_000;

/** The last moment a `Date` can show. */
const MAX_DATE = 8.64e15;

/** What `Cookie` of express-session begins with, for sessions that it has not seen yet. */
const NEW_COOKIE: StoredCookie = { originalMaxAge: null, httpOnly: true, path: '/' };

/**
 * What a store of express-session would keep of a session: its JSON.
 *
 * @throws {TypeError} for what has none: cycles, bigint
 */
export function partsOf(session: object): SessionParts {
  const { cookie, ...fields } = JSON.parse(JSON.stringify(session)) as ExpressFields;
  return {
    fields: new Map(Object.entries(fields).map(([key, value]) => [key, JSON.stringify(value)])),
    cookie: storedCookie(cookie),
  };
}

/** What is assigned field by field would take a value of that name for its prototype. */
export function withoutProto<T extends object>(fields: T): T {
  const { ['__proto__' as never]: _, ...rest } = fields;
  return rest as T;
}

function storedCookie(value: unknown): StoredCookie {
  if (typeof value !== 'object' || value === null) return NEW_COOKIE;
  const { expires, originalExpires: _, ...settings } = withoutProto(value as StoredCookie);
  const maxAge = settings.originalMaxAge ?? settings.maxAge;
  if (typeof maxAge === 'number') return { ...settings, originalMaxAge: maxAge };
  return { ...settings, originalMaxAge: null, ...(typeof expires === 'string' && { expires }) };
}

/** How long a session with this cookie lives without use, in ms (0 and less: no longer); undefined: it does not say. */
export function lifeOf({ originalMaxAge, expires }: StoredCookie, now: number): number | undefined {
  if (typeof originalMaxAge === 'number') return Math.round(originalMaxAge);
  if (typeof expires !== 'string') return undefined;
  const at = Date.parse(expires);
  return Number.isNaN(at) ? undefined : at - now;
}

/** True if the two say the same, but for the moment it takes to set one. A fixed date is another life each time. */
export function isSameCookie(one: StoredCookie, other: StoredCookie): boolean {
  const { originalMaxAge: age, expires, ...rest } = one;
  const { originalMaxAge: otherAge, expires: otherExpires, ...otherRest } = other;
  return (
    isNear(age ?? null, otherAge ?? null) &&
    expires === undefined &&
    otherExpires === undefined &&
    sortedJson(rest) === sortedJson(otherRest)
  );
}

function isNear(one: unknown, other: unknown): boolean {
  if (typeof one !== 'number' || typeof other !== 'number') return one === other;
  return Math.abs(one - other) < JITTER_MS;
}

/** What is null is as good as absent. */
function sortedJson(settings: StoredCookie): string {
  const set = Object.entries(settings).filter(([, value]) => value !== null && value !== undefined);
  return JSON.stringify(set.sort(([one], [other]) => (one < other ? -1 : 1)));
}

/** Clocks that are less apart than this are the same: an answer takes a moment. */
const CLOCK_JITTER_MS = 1_000;

/**
 * What this process's wall clock will show when the store's shows `at`: the frameworks count from the former, and would
 * take a session for over where it is ahead.
 *
 * @param storeNow what the store's showed just now
 */
function onWallClock(at: number, storeNow: number): number {
  const ahead = Date.now() - storeNow;
  return Math.abs(ahead) < CLOCK_JITTER_MS ? at : Math.min(at + ahead, MAX_DATE);
}

/**
 * The stored data as express-session takes it; `expires` is as the store has it, by this process's wall clock.
 *
 * @param storeNow the store's clock in the answer that brought the record; absent: taken for the same as ours
 */
export function sessionFrom(
  record: SessionRecord,
  data: ExpressFields,
  storeNow = Date.now(),
): ExpressFields & { cookie: object } {
  // __proto__ would become one: both libraries assign field by field. What is stored under it stays.
  const { cookie, ['__proto__']: _, ...fields } = data;
  const { expires, ...settings } =
    typeof cookie === 'object' && cookie !== null ? withoutProto(cookie as StoredCookie) : NEW_COOKIE;
  const ends = typeof settings.originalMaxAge === 'number' || expires !== undefined;
  return {
    cookie: { ...settings, expires: ends ? new Date(onWallClock(deadlineOf(record), storeNow)) : null },
    ...fields,
  };
}

function deadlineOf({ lastAccess, idleTimeout, absoluteDeadline }: SessionRecord): number {
  const idle = idleTimeout > 0 ? lastAccess + idleTimeout : Infinity;
  return Math.min(idle, absoluteDeadline > 0 ? absoluteDeadline : Infinity, MAX_DATE);
}

/** Lays over `data` what `after` has changed against `before`: fields, and the cookie if that is another. */
export function merged(data: ExpressFields, before: SessionParts, after: SessionParts): ExpressFields {
  const entries = new Map(Object.entries(data));
  for (const key of before.fields.keys()) if (!after.fields.has(key)) entries.delete(key);
  for (const [key, text] of after.fields)
    if (before.fields.get(key) !== text) entries.set(key, JSON.parse(text));
  if (!isSameCookie(before.cookie, after.cookie)) entries.set('cookie', after.cookie);
  // fromEntries defines properties: a field named __proto__ stays a field.
  return Object.fromEntries(entries);
}

/** The whole of it as data of a new session. */
export function dataOf({ fields, cookie }: SessionParts): ExpressFields {
  const entries = [...fields].map(([key, text]): [string, unknown] => [key, JSON.parse(text)]);
  return Object.fromEntries([...entries, ['cookie', cookie]]);
}

export function isSame(before: SessionParts, after: SessionParts): boolean {
  return (
    isSameCookie(before.cookie, after.cookie) &&
    before.fields.size === after.fields.size &&
    [...after.fields].every(([key, text]) => before.fields.get(key) === text)
  );
}

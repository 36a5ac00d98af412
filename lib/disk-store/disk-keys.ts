/**
 * Every key of the file. All is text; numbers have 16 digits, so that their order is that of the text.
 *
 * | key | value |
 * |---|---|
 * | `r:<id>` | the record, as JSON |
 * | `u:<user>:<id>` | `<lastAccess>:<deadline>`: the sessions of one user |
 * | `a:<lastAccess>:<id>` | `<deadline>:<user>`: lists and counts by activity |
 * | `d:<deadline>:<id>` | `<lastAccess>:<user>`: the sweep and the count |
 * | `l:<old id>` | where an old id leads (`StoredAlias`), as JSON |
 * | `x:<until>:<old id>` | `1`: when that ends |
 * | `e:<version>` | a session that has expired and is to be told by the next sweep, as JSON |
 * | `f:<user>` | while sessions of the user are being ended: which keep their ids, which are spared, until when (a list of `StoredFence`), as JSON |
 * | `m:version` | the last version given out |
 * | `m:openers` | who has the file open, see disk-openers.ts |
 *
 * `<user>` is the userId as hexadecimal UTF-16, empty for nobody: safe in a key, and in the order of the text itself.
 */
export const KEYS = {
  record: (id: string) => `r:${id}`,
  user: (user: string, id: string) => `u:${user}:${id}`,
  activity: (lastAccess: number, id: string) => `a:${digits(lastAccess)}:${id}`,
  deadline: (deadline: number, id: string) => `d:${digits(deadline)}:${id}`,
  alias: (id: string) => `l:${id}`,
  aliasEnd: (until: number, id: string) => `x:${digits(until)}:${id}`,
  expired: (version: number) => `e:${digits(version)}`,
  fence: (user: string) => `f:${user}`,
  version: 'm:version',
  openers: 'm:openers',
} as const;

/** More than any point in time, and than any version: what never comes. Has 16 digits. */
const NEVER = Number.MAX_SAFE_INTEGER;

/** A point in time or a version, for a key; Infinity stands for never. */
export function digits(value: number): string {
  return String(Math.min(NEVER, Math.max(0, Math.floor(value)))).padStart(16, '0');
}

/** A userId for a key; the order of two is that of their JavaScript strings. */
export function encodeUser(userId: string | null): string {
  return userId === null ? '' : Buffer.from(userId, 'utf16le').swap16().toString('hex');
}

export function decodeUser(user: string): string | null {
  return user === '' ? null : Buffer.from(user, 'hex').swap16().toString('utf16le');
}

/** What stands behind the second colon of a key: the id. */
export function idOf(key: string): string {
  return key.slice(key.indexOf(':', 2) + 1);
}

import type { ActiveSession } from '../core/active-session.js';
import { hasField, type DataFields } from '../core/session-data.js';
import { ownerBy } from '../core/session-owner.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';

type Session = ActiveSession<object>;

/** A cookie's end that is computed anew in each request is a little later each time; that is no reason for a new token. */
const END_TOLERANCE_MS = 60_000;

/** Clocks that are less apart than this are the same: the store's is known but for the moment its answer took. */
const CLOCK_JITTER_MS = 1_000;

/** How long the cookie lives: from each time it is sent, in ms (null: until the browser is closed), or to a fixed time. */
interface CookieField {
  readonly originalMaxAge?: number | null;
  /** Epoch milliseconds by the store's clock: the next request may be answered by a process with another. */
  readonly expires?: number;
}

/** The field of the data where the life of a session's cookie stands, as in the records of `express-session`. */
const COOKIE_FIELD = 'cookie';

/**
 * What sessions of an app with `expressView` say of themselves in their data: whose they are (`userIdFrom`), and how
 * long their cookie lives (`request.session.cookie.maxAge`).
 */
export class ViewRules {
  constructor(
    readonly options: Pick<
      ResolvedSessionOptions,
      'cookie' | 'idleTimeout' | 'absoluteTimeout' | 'userIdFrom'
    >,
  ) {}

  /** The user to whom unsaved changes pass the session; null: to nobody; undefined: it stays whose it is. */
  newOwnerOf(session: Session): string | null | undefined {
    const { userIdFrom } = this.options;
    const draft = userIdFrom === undefined ? null : session.drafted();
    if (userIdFrom === undefined || draft === null) return undefined;
    const owner = ownerBy(userIdFrom, draft.after);
    if (owner === session.userId) return undefined;
    // Where login() has set another user, what the data says counts only when it changes.
    return session.userId !== null && owner === ownerBy(userIdFrom, draft.before) ? undefined : owner;
  }

  /**
   * What goes over from one user to another (or to nobody): fields that the first one's data had not, and the one that
   * says whose it is.
   */
  carriedOver(session: Session, owner: string | null): DataFields {
    const { before, after } = session.drafted() ?? { before: {}, after: {} };
    const changed = session.unsaved();
    const added = Object.fromEntries(Object.entries(changed).filter(([key]) => !Object.hasOwn(before, key)));
    const says = (data: DataFields) => ownerBy(this.options.userIdFrom!, data) === owner;
    if (says(added)) return added;
    for (const key of Object.keys(changed)) {
      const data = { ...added, [key]: after[key] };
      if (says(data)) return data;
    }
    return changed;
  }

  /** How long the session's own cookie lives, in ms; null: until the browser is closed; undefined: as the module's. */
  cookieLifeOf(session: Session): number | null | undefined {
    const kept = cookieFieldOf(session.data as DataFields);
    if (kept === undefined) return undefined;
    return kept.expires === undefined
      ? kept.originalMaxAge
      : Math.max(0, kept.expires - aheadOfWall(session) - Date.now());
  }

  setCookieLife(session: Session, life: number | null): void {
    const data = session.data as DataFields;
    if (life === (this.options.cookie.maxAgeMs ?? null)) delete data[COOKIE_FIELD];
    else data[COOKIE_FIELD] = { originalMaxAge: life } satisfies CookieField;
  }

  /** @param at epoch milliseconds of this process's wall clock: set again in each request, it stays the same */
  setCookieEnd(session: Session, at: number): void {
    const ahead = aheadOfWall(session);
    const expires = at + ahead;
    const kept = cookieFieldOf(session.data as DataFields)?.expires ?? -Infinity;
    // The store's clock is never known to the millisecond.
    if (ahead !== 0 && Math.abs(kept - expires) < 2 * CLOCK_JITTER_MS) return;
    (session.data as DataFields)[COOKIE_FIELD] = { expires } satisfies CookieField;
  }

  /** True for a visitor's session of which nothing but the life of its cookie has been said: that stores nothing. */
  holdsNothing(session: Session): boolean {
    if (session.isStored || session.mustStore) return false;
    return Object.keys(session.drafted()?.after ?? {}).every((field) => field === COOKIE_FIELD);
  }

  /**
   * Timeouts that the session must get, because its cookie has been given another life, and it is to live as long;
   * undefined: it has them. A cookie that ends at a fixed time needs only that the session does not end before.
   */
  newTimeoutsOf(session: Session): { idleTimeout: number; absoluteTimeout?: number } | undefined {
    const draft = session.drafted();
    if (draft === null) return undefined;
    const [before, after] = [cookieFieldOf(draft.before), cookieFieldOf(draft.after)];
    if (before?.originalMaxAge === after?.originalMaxAge && before?.expires === after?.expires)
      return undefined;
    const { idleTimeout, absoluteTimeout } = this.options;
    const idle = this.cookieLifeOf(session) ?? idleTimeout;
    const suffices =
      after?.expires === undefined
        ? session.idleTimeout === idle
        : session.idleTimeout === 0 || session.idleTimeout >= idle - END_TOLERANCE_MS;
    if (suffices) return undefined;
    if (absoluteTimeout === 0) return { idleTimeout: idle };
    // The absolute timeout goes on, unless it would cut the cookie's life short, or has been raised for one.
    if (idle > absoluteTimeout) return { idleTimeout: idle, absoluteTimeout: idle };
    return session.idleTimeout > absoluteTimeout
      ? { idleTimeout: idle, absoluteTimeout }
      : { idleTimeout: idle };
  }
}

/** How far the store's clock is ahead of this process's wall clock, in ms; below 0: behind. */
function aheadOfWall({ storeNow }: Session): number {
  const ahead = storeNow - Date.now();
  return Math.abs(ahead) < CLOCK_JITTER_MS ? 0 : ahead;
}

/** What the data says of the cookie; undefined where that is nothing, or nothing of ours. */
function cookieFieldOf(data: DataFields): CookieField | undefined {
  const kept = hasField(data, COOKIE_FIELD) ? data[COOKIE_FIELD] : undefined;
  if (typeof kept !== 'object' || kept === null) return undefined;
  const { originalMaxAge, expires } = kept as { originalMaxAge?: unknown; expires?: unknown };
  if (typeof expires === 'number') return { expires };
  return originalMaxAge === null || (typeof originalMaxAge === 'number' && originalMaxAge > 0)
    ? { originalMaxAge }
    : undefined;
}

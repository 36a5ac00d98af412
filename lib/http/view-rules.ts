import type { ActiveSession } from '../core/active-session.js';
import { hasField, type DataFields } from '../core/session-data.js';
import { checkUserId } from '../core/user-id.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';

type Session = ActiveSession<object>;

/** A cookie's end that is computed anew in each request is a little later each time; that is no reason for a new token. */
const END_TOLERANCE_MS = 60_000;

/** How long the cookie lives: from each time it is sent, in ms (null: until the browser is closed), or to a fixed time. */
interface CookieField {
  readonly originalMaxAge?: number | null;
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
    if (draft === null) return undefined;
    // Compared with what the stored data says, not with the session's user: login() may have set that.
    const owner = this.#ownerBy(draft.after);
    return owner === this.#ownerBy(draft.before) || owner === session.userId ? undefined : owner;
  }

  /** How long the session's own cookie lives, in ms; null: until the browser is closed; undefined: as the module's. */
  cookieLifeOf(session: Session): number | null | undefined {
    const kept = cookieFieldOf(session.data as DataFields);
    if (kept === undefined) return undefined;
    return kept.expires === undefined ? kept.originalMaxAge : Math.max(0, kept.expires - Date.now());
  }

  setCookieLife(session: Session, life: number | null): void {
    const data = session.data as DataFields;
    if (life === (this.options.cookie.maxAgeMs ?? null)) delete data[COOKIE_FIELD];
    else data[COOKIE_FIELD] = { originalMaxAge: life } satisfies CookieField;
  }

  /** @param at epoch milliseconds: set again in each request, it stays the same */
  setCookieEnd(session: Session, at: number): void {
    (session.data as DataFields)[COOKIE_FIELD] = { expires: at } satisfies CookieField;
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
  newTimeoutsOf(session: Session): { idleTimeout: number; absoluteTimeout: number } | undefined {
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
    return {
      idleTimeout: idle,
      absoluteTimeout: absoluteTimeout === 0 ? 0 : Math.max(absoluteTimeout, idle),
    };
  }

  #ownerBy(data: DataFields): string | null {
    const owner = this.options.userIdFrom!(data) ?? null;
    if (owner === null) return null;
    if (typeof owner !== 'string' && typeof owner !== 'number') {
      throw new SessionArgumentError(
        'userIdFrom',
        `must return a string, a number, null or undefined; got ${typeof owner}. Return the user's id.`,
      );
    }
    return checkUserId(String(owner));
  }
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

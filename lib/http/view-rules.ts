import type { ActiveSession } from '../core/active-session.js';
import { hasField, type DataFields } from '../core/session-data.js';
import { checkUserId } from '../core/user-id.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';

type Session = ActiveSession<object>;

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
    const { data } = session;
    if (!hasField(data, COOKIE_FIELD)) return undefined;
    const kept = (data as DataFields)[COOKIE_FIELD];
    if (typeof kept !== 'object' || kept === null) return undefined;
    const { originalMaxAge: life } = kept as { originalMaxAge?: unknown };
    return life === null || (typeof life === 'number' && life > 0) ? life : undefined;
  }

  setCookieLife(session: Session, life: number | null): void {
    const data = session.data as DataFields;
    if (life === (this.options.cookie.maxAgeMs ?? null)) delete data[COOKIE_FIELD];
    else data[COOKIE_FIELD] = { originalMaxAge: life };
  }

  /** True for a visitor's session of which nothing but the life of its cookie has been said: that stores nothing. */
  holdsNothing(session: Session): boolean {
    if (session.isStored || session.mustStore) return false;
    return Object.keys(session.drafted()?.after ?? {}).every((field) => field === COOKIE_FIELD);
  }

  /** Timeouts that the session must get, because its cookie is to live as long; undefined: it has them. */
  newTimeoutsOf(session: Session): { idleTimeout: number; absoluteTimeout: number } | undefined {
    const life = this.cookieLifeOf(session);
    if (life === undefined) return undefined;
    const { idleTimeout, absoluteTimeout } = this.options;
    const idle = life ?? idleTimeout;
    if (session.idleTimeout === idle) return undefined;
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

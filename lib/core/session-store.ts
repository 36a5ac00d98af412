import type { SessionMetadata, SessionRecord } from './session-record.interface.js';

/** A record together with the store's clock at the moment it was read. */
export interface LoadedSession {
  readonly record: SessionRecord;
  /** Epoch milliseconds of the store's clock. */
  readonly now: number;
  /** True where `now` is not what the clock showed, but the latest that it may have shown. */
  readonly isEstimate?: boolean;
}

/** What a store needs to make a session; times are set by the store's own clock. */
export interface NewSession {
  readonly id: string;
  readonly userId: string | null;
  /** Milliseconds; 0 = never. */
  readonly idleTimeout: number;
  /** Milliseconds from creation; 0 = never. */
  readonly absoluteTimeout: number;
  readonly metadata: SessionMetadata;
  readonly data: string;
  /** The app chose the token itself: somebody may have asked for it before, so its creation is announced. */
  readonly given?: boolean;
  /** In a move that stays with the same user: the absolute deadline is counted from now, not inherited. */
  readonly restartsAbsolute?: boolean;
  /**
   * In a move that stays with the same user: for how many ms the old id leads to this session (`successorOf`), and for how
   * many of these `get` follows it.
   */
  readonly alias?: { readonly keepMs: number; readonly readMs: number };
  /** How many the user may have, this one included; only with `capabilities.index`. */
  readonly limit?: SessionLimit;
}

/** What a user may have of live sessions when one more is created. */
export interface SessionLimit {
  readonly max: number;
  /** At the limit, `evict` ends the least recently used ones, `reject` refuses the new one. */
  readonly policy: 'evict' | 'reject';
  /** Told of each session that made room as soon as it has; those in the result may be the same ones. */
  readonly onDisplaced?: (session: DisplacedSession) => void;
}

/** A session that made room for a new one of its user. */
export interface DisplacedSession {
  readonly id: string;
  readonly reason: 'evicted' | 'expired';
  readonly metadata: SessionMetadata;
}

/** A session that has been removed because its time was up. */
export interface ExpiredSession {
  readonly id: string;
  readonly userId: string | null;
  /** Empty where the record was gone before it was found. */
  readonly metadata: SessionMetadata;
}

/** A place in a list by last activity. */
export interface ListPosition {
  /** Epoch milliseconds. */
  readonly lastAccess: number;
  /** Of the session, or of the user in a list of users. */
  readonly id: string;
}

/** Which part of a list is wanted. */
export interface ListQuery {
  /** Only what was active since then; epoch milliseconds by the store's clock. */
  readonly activeSince?: number | undefined;
  /** Only what stands behind this place. */
  readonly after?: ListPosition | undefined;
  /** Most entries. */
  readonly limit: number;
}

/** A part of a list, most recently active first. */
export interface ListPage<E> {
  readonly entries: readonly E[];
  /** Where the next part begins; null when there is none. */
  readonly next: ListPosition | null;
  readonly now: number;
}

/** Sessions of one user. */
export interface UserSessions {
  /** Those that are live, most recently used first. */
  readonly records: readonly SessionRecord[];
  /** Those in the middle of a `move` to another user: absent, unless the move fails and puts them back. */
  readonly moving?: readonly SessionRecord[];
  readonly now: number;
}

/** Holds the ids of a user's sessions while these are being ended. */
export interface SessionFence {
  /** Those that are spared by now. */
  spared(): Promise<ReadonlySet<string>>;
  release(): Promise<void>;
}

/** A change of `data` on top of `base`. What is not named here stays as the record has it. */
export interface SessionChange {
  readonly base: SessionRecord;
  readonly data: string;
  /** Leave `lastAccess`, and with it the idle deadline, alone. */
  readonly keepExpiry: boolean;
  /** From now on; milliseconds, 0 = never. Not together with `keepExpiry`. @default that of the record */
  readonly idleTimeout?: number;
}

/** `displaced`: sessions of the user that made room, whatever the outcome. */
export type CreateResult =
  | ({ readonly status: 'created'; readonly displaced?: readonly DisplacedSession[] } & LoadedSession)
  | { readonly status: 'taken' }
  | LimitReached;

/** The user has as many sessions as they may have. */
export interface LimitReached {
  readonly status: 'limit';
  readonly displaced?: readonly DisplacedSession[];
}

/** The session is absent, expired, destroyed or moved. */
export interface Gone {
  readonly status: 'gone';
}

/**
 * The record is no longer the `base` of the change. `uncertain` is true when an earlier try of this very change lost
 * its reply, so that the change may already lie beneath the current record.
 */
export interface Conflict extends LoadedSession {
  readonly status: 'conflict';
  readonly uncertain: boolean;
}

export type WriteResult = ({ readonly status: 'written' } & LoadedSession) | Gone | Conflict;
export type MoveResult =
  | ({ readonly status: 'moved'; readonly displaced?: readonly DisplacedSession[] } & LoadedSession)
  | Gone
  | Conflict
  | LimitReached;

/**
 * What a store can do beyond the bare contract; what is left out, it cannot. A feature that needs one of these stops the
 * boot where the store lacks it.
 */
export interface SessionStoreCapabilities {
  /** Writes are refused with `conflict` when any process changed the record since it was read. */
  readonly versions?: boolean;
  /** `userSessions` finds all sessions of a user, `destroyMany` ends them, and `create` observes `limit`. */
  readonly index?: boolean;
  /** `move` observes `alias`, and `successorOf` and `get` follow it: what the option `rotateEvery` needs. */
  readonly aliases?: boolean;
  /** This process is the only writer, so copies may be kept although no changes are announced. */
  readonly exclusive?: boolean;
}

/**
 * Where sessions are kept.
 *
 * Every method rejects with `SessionStoreUnavailableError` when the store cannot answer, and with nothing else.
 * An expired session is absent for every method, whether it has been removed yet or not. `null`, `false` and `gone`
 * are answers, not errors.
 *
 * @publicApi
 */
export abstract class SessionStore {
  readonly capabilities: SessionStoreCapabilities = {};

  /** `open`: operations are refused at once, because those before them got no answer; undefined where that never is. */
  get breaker(): 'closed' | 'open' | undefined {
    return undefined;
  }

  /** Called once while the app boots; may reject to stop the boot. */
  async open(): Promise<void> {}

  /** Called once when the app shuts down: stops timers, closes connections the store opened itself. */
  async close(): Promise<void> {}

  /**
   * Only an `exclusive` store need do this: tells every change as it is made, `version` the new one, or Infinity when the
   * session ended. Returns the function that ends it.
   */
  onChange(_listener: (id: string, version: number) => void): () => void {
    return () => undefined;
  }

  /** Stores a new session; `taken`, and nothing changed, if the id has a live one. Observes `session.limit`. */
  abstract create(session: NewSession): Promise<CreateResult>;

  /**
   * The live session, or null. For the old id of one that was moved with an `alias`, the session that took its place, as
   * long as reads follow it: a record of another id.
   */
  abstract get(id: string): Promise<LoadedSession | null>;

  /** The live session that took the place of one that was moved with an `alias`; null for every other id. */
  async successorOf(_id: string): Promise<SessionRecord | null> {
    return null;
  }

  /** Replaces the data if the record is still `change.base`; sets `lastAccess` unless told to keep it. */
  abstract set(change: SessionChange): Promise<WriteResult>;

  /**
   * Sets `lastAccess` to now if it is older than `minInterval` milliseconds. Neither version nor absolute deadline
   * change. Resolves to the record's times after that, or null when absent.
   *
   * @param hint.userId the session's user where the caller knows it; saves a round trip
   */
  abstract touch(
    id: string,
    minInterval: number,
    hint?: { userId: string | null },
  ): Promise<TouchResult | null>;

  /** Ends the session and announces it. True if a live one was there. Repeating it is safe. */
  abstract destroy(id: string, hint?: { userId: string | null }): Promise<boolean>;

  /**
   * Ends `base` and creates `next` in its place; at no moment are both usable. Where the user stays the same, creation
   * time and absolute deadline are inherited; see `next.restartsAbsolute`.
   */
  abstract move(base: SessionRecord, next: NewSession): Promise<MoveResult>;

  /** All live sessions, in no order, read in batches. Sessions that come or go meanwhile may be missed. */
  abstract all(): AsyncIterable<SessionRecord>;

  /** Number of live sessions. */
  abstract length(): Promise<number>;

  /**
   * Ends every session there is when it begins, in bounded batches.
   *
   * @param onEnded called for each batch with the sessions that were alive
   */
  abstract clear(
    onEnded?: (sessions: readonly { readonly id: string; readonly userId: string | null }[]) => void,
  ): Promise<void>;

  /** Epoch milliseconds of the store's clock. */
  async now(): Promise<number> {
    return Date.now();
  }

  /** Number of live sessions that were active since then. Another process's activity may count a second later. */
  async countActive(since: number): Promise<number> {
    let count = 0;
    for await (const { lastAccess } of this.all()) if (lastAccess >= since) count++;
    return count;
  }

  /** Live sessions, most recently active first. What is used between two parts moves to the front. */
  async list(query: ListQuery): Promise<ListPage<SessionRecord>> {
    const found: (SessionRecord & ListPosition)[] = [];
    for await (const record of this.all()) found.push(record);
    return { ...pageOf(found, query), now: await this.now() };
  }

  /** Users who have live sessions, most recently active first; `id` is the userId. */
  async listUsers(query: ListQuery): Promise<ListPage<ListPosition>> {
    const users = new Map<string, ListPosition>();
    for await (const { userId, lastAccess } of this.all()) {
      if (userId !== null && lastAccess >= (users.get(userId)?.lastAccess ?? -1))
        users.set(userId, { id: userId, lastAccess });
    }
    return { ...pageOf([...users.values()], query), now: await this.now() };
  }

  /**
   * Removes sessions whose time is up, with all that is kept of them, in bounded batches. Stores whose sessions go by
   * themselves need not.
   *
   * @param onExpired called once for each, in one process only
   * @param claimMs for how long no other process need do the same
   * @param isStopped asked between batches: true ends the sweep
   */
  async sweep(
    _onExpired: (session: ExpiredSession) => void,
    _claimMs: number,
    _isStopped: () => boolean,
  ): Promise<void> {}

  /** Live sessions of one user, most recently used first. Only with `capabilities.index`. */
  async userSessions(_userId: string): Promise<UserSessions> {
    throw new TypeError(`${this.constructor.name} has no capabilities.index`);
  }

  /**
   * Before the sessions of a user are ended: those they have now get no other id for a while, as far as the store can see
   * to that; a `move` of theirs finds them gone. Without it, one that is regenerated again and again might be missed.
   *
   * @param spared ids of those that may; what these become is spared too
   */
  async fence(_userId: string, spared: readonly string[]): Promise<SessionFence> {
    const ids = new Set(spared);
    return { spared: async () => ids, release: async () => undefined };
  }

  /**
   * Ends many sessions of one user at once, in bounded batches, and resolves to the ids that were live.
   * Only with `capabilities.index`.
   *
   * @param _onEnded told the same of each batch, as it has ended
   */
  async destroyMany(
    _ids: readonly string[],
    _userId: string,
    _onEnded?: (ids: readonly string[]) => void,
  ): Promise<readonly string[]> {
    throw new TypeError(`${this.constructor.name} has no capabilities.index`);
  }
}

/** A part of all entries, by last activity. */
function pageOf<E extends ListPosition>(
  all: E[],
  { activeSince = -Infinity, after, limit }: ListQuery,
): { entries: E[]; next: ListPosition | null } {
  const rest = all
    .filter((entry) => entry.lastAccess >= activeSince && (after === undefined || comesAfter(entry, after)))
    .sort((a, b) => (comesAfter(a, b) ? 1 : -1));
  const entries = rest.slice(0, limit);
  const last = entries.at(-1);
  return {
    entries,
    next: last === undefined || rest.length <= limit ? null : { lastAccess: last.lastAccess, id: last.id },
  };
}

/** In the order of lists: the last active first, and among those of one moment the greatest id, as Redis has it. */
export function comesAfter(one: ListPosition, other: ListPosition): boolean {
  return one.lastAccess < other.lastAccess || (one.lastAccess === other.lastAccess && one.id < other.id);
}

/** Times of a record after a touch. */
export interface TouchResult {
  readonly version: number;
  readonly lastAccess: number;
  readonly now: number;
}

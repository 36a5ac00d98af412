import { SessionArgumentError } from '../errors/caller.errors.js';
import { SessionNotReplicatedError } from '../errors/state.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import type { SessionEngine } from './session-engine.js';
import { checkNames } from './regenerate-options.js';
import { deadlineOf, type SessionInfo, type SessionRecord } from './session-record.interface.js';
import { partitionOfId } from './session-token.js';
import { checkUserId } from './user-id.js';

/** @publicApi */
export interface KillUserOptions {
  /** Ids of sessions to spare, e.g. the one the user is looking at. */
  except?: string | readonly string[];
}

/** Passes over a user's index in one `killUser`; each finds only what was re-created meanwhile. */
const MAX_PASSES = 100;

/**
 * Sessions by user and by public id: what an account page or an administrator needs. Never shows tokens or data.
 *
 * All methods reject with `SessionStoreUnavailableError` when the store does not answer within `commandTimeout`.
 *
 * @publicApi
 */
export class SessionRegistry {
  /** @internal provided by `SessionModule` */
  constructor(
    private readonly engine: SessionEngine,
    private readonly options: Pick<ResolvedSessionOptions, 'partitions'>,
  ) {}

  /** The user's live sessions, most recently used first; empty for an unknown user. */
  async getUserSessions(userId: string): Promise<SessionInfo[]> {
    const { records, now } = await this.#store().userSessions(checkUserId(userId));
    return records.map((record) => describe(record, now));
  }

  /**
   * Ends one session everywhere. False if there is no such session: an unknown or malformed id is no error.
   *
   * @throws {SessionArgumentError} if `id` is not a string
   */
  async kill(id: string): Promise<boolean> {
    if (typeof id !== 'string')
      throw new SessionArgumentError('id', `must be a string; got ${typeof id}. Pass session.id.`);
    if (partitionOfId(id, this.options.partitions) === null) return false;
    return this.engine.destroyById(id, 'killed');
  }

  /**
   * Ends all sessions the user had when it was called, those regenerated meanwhile included. Resolves to their number.
   *
   * @throws {SessionArgumentError} if `userId` is not a string of 1 to 255 characters
   */
  async killUser(userId: string, options: KillUserOptions = {}): Promise<number> {
    checkNames(options, ['except']);
    const { except = [] } = options;
    checkUserId(userId);
    const store = this.#store();
    const spared = new Set(typeof except === 'string' ? [except] : except);
    const first = await store.userSessions(userId);
    let { records } = first;
    let count = 0;
    let unconfirmed: SessionNotReplicatedError | undefined;
    for (let pass = 0; pass < MAX_PASSES; pass++) {
      // First all that are listed; then what was regenerated meanwhile: it keeps its time of creation, so that it
      // cannot slip through under its new id, while a login that began after this call is left alone.
      const ids = records
        .filter(({ id, createdAt }) => (pass === 0 || createdAt <= first.now) && !spared.has(id))
        .map(({ id }) => id);
      // The first pass also where nothing is left: what was ended before may still wait to be confirmed by replicas.
      if (ids.length === 0 && pass > 0) break;
      try {
        count += await this.engine.destroyMany(ids, userId, 'killed');
      } catch (error) {
        if (!(error instanceof SessionNotReplicatedError)) throw error;
        unconfirmed = error.and(unconfirmed); // they have ended; the others must end too
      }
      ({ records } = await store.userSessions(userId));
    }
    if (unconfirmed !== undefined) throw unconfirmed;
    return count;
  }

  #store() {
    const { store } = this.engine;
    if (!store.capabilities.index) {
      throw new SessionArgumentError(
        'store',
        `${store.constructor.name} keeps no index of users. Use Redis or the memory store.`,
      );
    }
    return store;
  }
}

function describe(record: SessionRecord, now: number): SessionInfo {
  const { id, userId, createdAt, lastAccess, metadata } = record;
  const deadline = deadlineOf(record);
  const expiresAt = deadline === Infinity ? null : deadline;
  return { id, userId, createdAt, lastAccess, expiresAt, idle: Math.max(0, now - lastAccess), metadata };
}

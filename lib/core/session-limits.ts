import { SessionArgumentError } from '../errors/caller.errors.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import type { SessionEvents } from '../events/session-events.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import { KeyedQueue } from './keyed-queue.js';
import type { SessionCache } from './session-cache.interface.js';
import type { DisplacedSession, SessionLimit } from './session-store.js';

export type LimitOptions = Pick<
  ResolvedSessionOptions,
  'maxSessionsPerUser' | 'onLimit' | 'commandTimeoutMs'
>;

/** Option `maxSessionsPerUser`: how many sessions each user may have, and new ones of a user in turn. */
export class SessionLimits {
  readonly #queue: KeyedQueue;

  constructor(
    private readonly cache: SessionCache,
    private readonly events: SessionEvents,
    private readonly options: LimitOptions,
  ) {
    const waitMs = options.commandTimeoutMs;
    this.#queue = new KeyedQueue(
      waitMs,
      () =>
        new SessionStoreUnavailableError(
          'create a session',
          `others of the same user in this process (option "maxSessionsPerUser") were not made within ${waitMs} ms`,
          false,
        ),
    );
  }

  /** How many sessions the user may have; undefined: no limit. */
  async of(userId: string | null): Promise<SessionLimit | undefined> {
    const { maxSessionsPerUser, onLimit } = this.options;
    if (userId === null || maxSessionsPerUser === 0) return undefined;
    const max =
      typeof maxSessionsPerUser === 'number' ? maxSessionsPerUser : await maxSessionsPerUser(userId);
    if (max === Infinity) return undefined;
    if (!Number.isInteger(max) || max < 1) {
      throw new SessionArgumentError(
        'maxSessionsPerUser',
        `must return a whole number of at least 1, or Infinity; got ${String(max)}.`,
      );
    }
    const told = new Set<string>();
    const onDisplaced = ({ id, reason, metadata }: DisplacedSession): void => {
      if (told.has(id)) return;
      told.add(id);
      this.cache.delete(id);
      if (reason === 'evicted') this.events.emit('destroyed', { id, userId, reason });
      else this.events.emit('expired', { id, userId, metadata: { ...metadata } });
    };
    return { max, policy: onLimit === 'reject' ? 'reject' : 'evict', onDisplaced };
  }

  /** Those of one user in turn: each changes what the others must look at first. */
  inTurn<R>(userId: string | null, task: () => Promise<R>): Promise<R> {
    return this.#queue.run(userId, task);
  }

  /** Resolves when all that has begun has ended. */
  idle(): Promise<void> {
    return this.#queue.idle();
  }
}

import type { SessionRecord } from '../core/session-record.interface.js';
import type { CreateResult, MoveResult, NewSession } from '../core/session-store.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import type { ActivityIndex } from './activity-index.js';
import type { RedisLinks } from './redis-links.js';
import type { RedisKeys } from './redis-keys.js';
import { createdRecord, encodeUserId, formatTail, formatVersion, newNonce } from './redis-record.js';
import type { RedisRecords } from './redis-records.js';
import { FORGET_MOVED, MARK_MOVED, RESTORE_MOVED, ROTATE } from './scripts/move.lua.js';

/** What stands for a session on its way to another partition. */
interface MovedSession {
  readonly user: string;
  readonly keys: readonly string[];
  readonly nonce: string;
}

/** Gives sessions a new id: beside the old one in one step, in another partition in three. */
export class RedisMoves {
  constructor(
    private readonly connection: RedisLinks,
    private readonly keys: RedisKeys,
    private readonly records: RedisRecords,
    private readonly activity: ActivityIndex,
    private readonly origin: string,
    private readonly commandTimeoutMs: number,
    private readonly create: (session: NewSession) => Promise<CreateResult>,
  ) {}

  async move(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const sameUser = base.userId === next.userId;
    return sameUser && this.keys.partitionOf(base.id) === this.keys.partitionOf(next.id)
      ? this.#rotate(base, next)
      : this.#moveAcross(base, next);
  }

  async #rotate(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const partition = this.keys.partitionOf(base.id);
    const user = encodeUserId(base.userId);
    const records = [
      this.keys.record(partition, base.id),
      this.keys.record(partition, next.id),
      this.keys.fence(partition, ''),
      this.keys.fence(partition, this.keys.keepsUsers ? user : ''),
    ];
    const keys = this.keys.ofAll(partition, records, [user]);
    const { value, uncertain } = await this.connection.run('regenerate a session', true, ROTATE, keys, [
      formatVersion(base.version),
      newNonce(),
      base.id,
      next.id,
      user,
      next.idleTimeout,
      formatTail(user, next.metadata, next.data),
      this.keys.channelOf(partition),
      this.origin,
      next.restartsAbsolute === true ? next.absoluteTimeout : '',
      ...(next.alias === undefined ? [] : [next.alias.keepMs, next.alias.readMs]),
    ]);
    const reply = value as [1, string] | [0, string, number] | [-1];
    if (reply[0] !== 1) return this.records.refused(base.id, reply, uncertain);
    const moved = createdRecord(next, reply[1]);
    this.activity.forget(base.id);
    this.activity.note(next.id, user, moved.record.lastAccess);
    return { status: 'moved', ...moved };
  }

  /**
   * Two slots, so three steps: mark the old session as moved (it counts as absent from then on), create the new one, forget
   * the mark. If the new one cannot be made for certain, the old one is put back while its mark stands; if it may have been
   * made, it is not: a crash or a lost reply may cost the login, never leave two usable tokens.
   */
  async #moveAcross(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const user = encodeUserId(base.userId);
    const partition = this.keys.partitionOf(base.id);
    const keys = this.keys.ofAll(partition, [this.keys.record(partition, base.id)], [user]);
    const old = { user, keys, nonce: newNonce() };
    const { value, uncertain } = await this.connection.run(
      'regenerate a session',
      true,
      MARK_MOVED,
      old.keys,
      [
        formatVersion(base.version),
        old.nonce,
        base.id,
        old.user,
        this.keys.channelOf(this.keys.partitionOf(base.id)),
        this.origin,
        this.commandTimeoutMs * 2 + 1_000,
      ],
    );
    const reply = value as [1] | [0, string, number] | [-1];
    if (reply[0] !== 1) return this.records.refused(base.id, reply, uncertain);
    this.activity.forget(base.id);
    try {
      const result = await this.create(next);
      if (result.status === 'taken')
        throw new SessionStoreUnavailableError('regenerate a session', 'the new id was taken', false);
      if (result.status === 'limit') return (await this.#restore(old, base)) ? result : { status: 'gone' };
      await this.#forgetMoved(old, base.id);
      return { ...result, status: 'moved' };
    } catch (error) {
      if (!(error instanceof SessionStoreUnavailableError) || error.outcomeUnknown) throw error;
      if (await this.#restore(old, base, error)) throw error;
      return { status: 'gone' };
    }
  }

  /**
   * False where the session was ended meanwhile, or has expired.
   *
   * @throws {SessionStoreUnavailableError} if the session that was to be replaced could not be put back
   */
  async #restore(
    old: MovedSession,
    { id, lastAccess: at }: SessionRecord,
    cause?: unknown,
  ): Promise<boolean> {
    const restored = await this.connection
      .run(
        'restore a session',
        true,
        RESTORE_MOVED,
        old.keys,
        [old.nonce, id, old.user, this.keys.channelOf(this.keys.partitionOf(id)), this.origin],
        'repair',
      )
      .catch(() => null);
    if (restored === null) {
      throw new SessionStoreUnavailableError(
        'regenerate a session',
        'the new one could not be made, nor the old one be kept',
        true,
        { cause },
      );
    }
    if (restored.value === 1) this.activity.note(id, old.user, at);
    return restored.value === 1;
  }

  async #forgetMoved(old: MovedSession, id: string): Promise<void> {
    await this.connection
      .run('regenerate a session', true, FORGET_MOVED, old.keys, [old.nonce, id, old.user], 'repair')
      .catch(() => null); // the sweep does it
  }
}

import type { CreateResult, DisplacedSession, NewSession, SessionLimit } from '../core/session-store.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import type { ActivityIndex } from './activity-index.js';
import type { RedisLinks } from './redis-links.js';
import type { RedisKeys } from './redis-keys.js';
import type { RedisLists } from './redis-lists.js';
import {
  createdRecord,
  encodeUserId,
  formatIdle,
  formatTail,
  newNonce,
  readMetadata,
} from './redis-record.js';
import { CREATE_LIMITED } from './scripts/index.lua.js';
import { CREATE } from './scripts/record.lua.js';

/** How often a limited user's least recently used sessions are named anew because they changed meanwhile. */
const MAX_OFFERS = 100;

type LimitedReply = [1, string, string[]] | [0] | [2, string[], string[], number] | [3, number, string[]];

/** Makes sessions, where a user may have only so many by ending others in the same step. */
export class RedisCreation {
  constructor(
    private readonly connection: RedisLinks,
    private readonly keys: RedisKeys,
    private readonly lists: RedisLists,
    private readonly activity: ActivityIndex,
    private readonly origin: string,
  ) {}

  async create(session: NewSession): Promise<CreateResult> {
    const { limit, userId } = session;
    const result =
      limit === undefined || userId === null
        ? await this.#create(session)
        : await this.#createLimited(session, userId, limit);
    if (result.status === 'created')
      this.activity.note(session.id, encodeUserId(userId), result.record.lastAccess);
    return result;
  }

  async #create(session: NewSession): Promise<CreateResult> {
    const user = encodeUserId(session.userId);
    const keys = this.keys.ofRecord(session.id, user);
    const { value, uncertain } = await this.connection.run('create a session', true, CREATE, keys, [
      newNonce(),
      formatIdle(session.idleTimeout),
      session.absoluteTimeout,
      session.id,
      user,
      formatTail(user, session.metadata, session.data),
      ...(session.given === true
        ? [this.keys.channelOf(this.keys.partitionOf(session.id)), this.origin]
        : []),
    ]);
    if (typeof value === 'string') return { status: 'created', ...createdRecord(session, value) };
    // The id may be ours, created by the try whose reply was lost and changed by someone since.
    if (uncertain)
      throw new SessionStoreUnavailableError('create a session', 'the link broke meanwhile', true);
    return { status: 'taken' };
  }

  async #createLimited(session: NewSession, userId: string, limit: SessionLimit): Promise<CreateResult> {
    const { id } = session;
    const partition = this.keys.partitionOf(id);
    const user = encodeUserId(userId);
    const userKey = this.keys.user(partition, user);
    const nonce = newNonce();
    const displaced: DisplacedSession[] = [];
    let offered: readonly string[] = [];
    for (let idle = 0; idle < MAX_OFFERS; idle++) {
      const { value, uncertain } = await this.connection.run(
        'create a session',
        true,
        CREATE_LIMITED,
        [
          this.keys.record(partition, id),
          ...offered.map((other) => this.keys.record(partition, other)),
          userKey,
          ...this.keys.indexesOf(partition),
        ],
        [
          nonce,
          session.idleTimeout,
          session.absoluteTimeout,
          id,
          user,
          formatTail(user, session.metadata, session.data),
          this.keys.channelOf(partition),
          this.origin,
          limit.max,
          limit.policy,
          ...offered,
        ],
      );
      const reply = value as LimitedReply;
      if (reply[0] === 0) {
        if (uncertain)
          throw new SessionStoreUnavailableError('create a session', 'the link broke meanwhile', true);
        return { status: 'taken' };
      }
      const ended = reply[2];
      for (let at = 0; at < ended.length; at += 3) {
        const [other, reason, metadata] = ended.slice(at, at + 3) as [string, 'evicted' | 'expired', string];
        this.activity.forget(other);
        const session = { id: other, reason, metadata: readMetadata(metadata) };
        displaced.push(session);
        limit.onDisplaced?.(session); // the rest may fail
        idle = 0;
      }
      if (reply[0] === 1) return { status: 'created', displaced, ...createdRecord(session, reply[1]) };
      if (reply[0] === 3) return { status: 'limit', displaced };
      const [, oldest, , count] = reply;
      // And at once: the longer it waits, the more others have replaced.
      offered =
        count > oldest.length
          ? [...oldest, ...(await this.lists.expiredAfter(user, partition, oldest.length))]
          : oldest;
    }
    throw new SessionStoreUnavailableError('create a session', "the user's sessions kept changing", false);
  }
}

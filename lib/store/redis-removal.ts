import { partitionOfUser } from '../core/session-token.js';
import type { ExpiredSession, SessionFence } from '../core/session-store.js';
import { SessionNotReplicatedError } from '../errors/state.errors.js';
import type { ActivityIndex } from './activity-index.js';
import { idOfMember, userOfMember, withoutIndex, withoutUsers, type RedisKeys } from './redis-keys.js';
import { milliseconds, type RedisLinks } from './redis-links.js';
import { decodeUserId, encodeUserId, readMetadata } from './redis-record.js';
import { READ_BATCH } from './redis-records.js';
import type { ReplicaBarrier } from './replica-barrier.js';
import { SWEEP } from './scripts/index.lua.js';
import { DESTROY } from './scripts/record.lua.js';

/** Most sessions that one script removes, each with its indexes: some 2 ms of the server's time. */
const REMOVE_BATCH = 50;

/** Ids of sessions that were alive, and the servers (by `run_id`) on which they ended: one, but for a failover. */
interface Destroyed {
  readonly ended: string[];
  readonly servers: Set<string | null>;
}

/** Ends sessions, and removes what has expired, in bounded batches. */
export class RedisRemoval {
  /** @param barrier null unless the end of a session waits for replicas */
  constructor(
    private readonly connection: RedisLinks,
    private readonly keys: RedisKeys,
    private readonly activity: ActivityIndex,
    private readonly origin: string,
    private readonly barrier: ReplicaBarrier | null,
    private readonly options: {
      readonly waitForReplicas: number;
      readonly waitMs: number;
      readonly fenceMs: number;
    },
  ) {}

  async destroy(id: string, hint?: { userId: string | null }): Promise<boolean> {
    const users = [encodeUserId(hint?.userId ?? null)];
    const partition = this.keys.partitionOf(id);
    const done = await this.#destroyBatch(partition, [id], users);
    return (await this.#confirmed(partition, done)).length === 1;
  }

  async destroyMany(
    ids: readonly string[],
    userId: string,
    onEnded?: (ids: readonly string[]) => void,
  ): Promise<readonly string[]> {
    this.#needUsers();
    const partition = partitionOfUser(userId, this.keys.partitions);
    const user = encodeUserId(userId);
    const all: Destroyed = { ended: [], servers: new Set([this.#serverOf(partition)]) };
    for (let start = 0; start < ids.length; start += REMOVE_BATCH) {
      const batch = ids.slice(start, start + REMOVE_BATCH);
      const done = await this.#destroyBatch(
        partition,
        batch,
        batch.map(() => user),
      );
      onEnded?.(done.ended);
      all.ended.push(...done.ended);
      for (const server of done.servers) all.servers.add(server);
    }
    return this.#confirmed(partition, all);
  }

  #needUsers(): void {
    if (!this.keys.keepsUsers) throw withoutUsers(this.keys);
  }

  async fence(userId: string, spared: readonly string[]): Promise<SessionFence> {
    this.#needUsers();
    const partition = partitionOfUser(userId, this.keys.partitions);
    const key = this.keys.fence(partition, encodeUserId(userId));
    await this.#setFence(partition, key, spared);
    return {
      spared: async () => {
        const text = await this.connection.read(partition, 'end sessions', async (client) => {
          await client.pexpire(key, this.options.fenceMs);
          return client.get(key);
        });
        return new Set([...spared, ...(text?.split(' ').slice(1) ?? [])]);
      },
      release: () => this.#releaseFence(partition, key),
    };
  }

  /** Should another be ending the same sessions, it does without. */
  async #releaseFence(partition: number, key: string): Promise<void> {
    await this.connection.read(partition, 'end sessions', (client) => client.del(key)).catch(() => undefined); // its time will be up
  }

  async #setFence(partition: number, key: string, spared: readonly string[] = []): Promise<void> {
    await this.connection.read(partition, 'end sessions', async (client) => {
      const text = [milliseconds(await client.time()), ...spared].join(' ');
      await client.set(key, text, 'PX', this.options.fenceMs);
    });
  }

  async clear(
    onEnded?: (sessions: readonly { readonly id: string; readonly userId: string | null }[]) => void,
  ): Promise<void> {
    if (!this.keys.keepsDeadlines) throw withoutIndex('index', 'sessions cannot be listed to be ended');
    let unconfirmed: SessionNotReplicatedError | undefined;
    for (let partition = 0; partition < this.keys.partitions; partition++) {
      // Ids given meanwhile would stand where the scan has been already.
      const fence = this.keys.fence(partition, '');
      await this.#setFence(partition, fence);
      try {
        for await (const members of this.#scan(partition)) {
          const [done] = await Promise.all([
            this.#destroyBatch(partition, members.map(idOfMember), members.map(userOfMember)),
            this.connection.read(partition, 'end all sessions', (client) =>
              client.pexpire(fence, this.options.fenceMs),
            ),
          ]);
          const alive = new Set(done.ended);
          onEnded?.(
            members
              .filter((member) => alive.has(idOfMember(member)))
              .map((member) => ({ id: idOfMember(member), userId: decodeUserId(userOfMember(member)) })),
          );
          try {
            await this.#confirmed(partition, done);
          } catch (error) {
            if (!(error instanceof SessionNotReplicatedError)) throw error;
            unconfirmed = error.and(unconfirmed); // the others must end too
          }
        }
      } finally {
        await this.#releaseFence(partition, fence);
      }
    }
    if (unconfirmed !== undefined) throw unconfirmed;
  }

  /** Members of a deadlines index in batches. Scanned, not taken from the front: what is made meanwhile would never end. */
  async *#scan(partition: number): AsyncGenerator<readonly string[]> {
    let cursor = '0';
    do {
      const [next, flat] = await this.connection.read(partition, 'end all sessions', (client) =>
        client.zscan(this.keys.deadlines(partition), cursor, 'COUNT', READ_BATCH),
      );
      cursor = next;
      const members = flat.filter((_, index) => index % 2 === 0);
      for (let start = 0; start < members.length; start += REMOVE_BATCH)
        yield members.slice(start, start + REMOVE_BATCH);
    } while (cursor !== '0');
  }

  /**
   * One removes what is due in a partition; the others find the partition claimed. Should two do it all the same, each
   * session is still removed, and told, by one of them.
   */
  async sweep(
    onExpired: (session: ExpiredSession) => void,
    claimMs: number,
    isStopped: () => boolean = () => false,
  ): Promise<void> {
    if (!this.keys.keepsDeadlines) return; // Redis lets them expire
    const first = Math.floor(Math.random() * this.keys.partitions);
    for (let count = 0; count < this.keys.partitions && !isStopped(); count++) {
      const partition = (first + count) % this.keys.partitions;
      const claim = await this.connection.read(
        partition,
        'claim a sweep',
        (client) => client.set(this.keys.sweepClaim(partition), this.origin, 'PX', claimMs, 'NX'),
        'background',
      );
      if (claim === null) continue;
      for (let kept: number | null = 0; kept !== null && !isStopped();)
        kept = await this.#sweepBatch(partition, kept, onExpired);
    }
  }

  /**
   * @param offset how many at the front are known to stay: sessions in the middle of a move
   * @returns the same for the next batch; null where there is none
   */
  async #sweepBatch(
    partition: number,
    offset: number,
    onExpired: (session: ExpiredSession) => void,
  ): Promise<number | null> {
    const deadlines = this.keys.deadlines(partition);
    const members = await this.connection.read(
      partition,
      'sweep',
      async (client) =>
        client.zrangebyscore(
          deadlines,
          '-inf',
          milliseconds(await client.time()),
          'LIMIT',
          offset,
          REMOVE_BATCH,
        ),
      'background',
    );
    if (members.length === 0) return null;
    const ids = members.map(idOfMember);
    const users = members.map(userOfMember);
    const { value } = await this.connection.run(
      'sweep',
      true,
      SWEEP,
      this.keys.ofAll(
        partition,
        ids.map((id) => this.keys.record(partition, id)),
        users,
      ),
      [...ids, ...users],
      'background',
    );
    const replies = value as (string | 0 | 1)[];
    for (const [index, metadata] of replies.entries()) {
      if (typeof metadata !== 'string') continue;
      const [id, user] = [ids[index]!, users[index]!];
      this.activity.forget(id);
      onExpired({ id, userId: decodeUserId(user), metadata: readMetadata(metadata) });
    }
    if (members.length < REMOVE_BATCH) return null;
    return offset + replies.filter((reply) => reply === 1).length;
  }

  /** @param users encoded userIds the caller believes in; those that are wrong are asked for and tried again */
  async #destroyBatch(
    partition: number,
    ids: readonly string[],
    users: readonly string[],
  ): Promise<Destroyed> {
    const { value, uncertain, server } = await this.connection.run(
      'end a session',
      true,
      DESTROY,
      this.keys.ofAll(
        partition,
        ids.map((id) => this.keys.record(partition, id)),
        users,
      ),
      [this.keys.channelOf(partition), this.origin, ...ids, ...users],
    );
    for (const id of ids) this.activity.forget(id);
    const replies = (Array.isArray(value) ? value : [value]) as (number | string)[];
    // A repeated try finds nothing where the first one, whose reply was lost, ended the session.
    const ended = ids.filter((_, index) => replies[index] === 1 || (replies[index] === 0 && uncertain));
    const wrong = ids.flatMap((id, index) =>
      typeof replies[index] === 'string' ? [{ id, user: replies[index] }] : [],
    );
    const servers = new Set([server]);
    if (wrong.length === 0) return { ended, servers };
    const rest = await this.#destroyBatch(
      partition,
      wrong.map(({ id }) => id),
      wrong.map(({ user }) => user),
    );
    return { ended: [...ended, ...rest.ended], servers: new Set([...servers, ...rest.servers]) };
  }

  #serverOf(partition: number): string | null {
    return this.connection.linkOf(partition)?.server ?? null;
  }

  /**
   * Resolves to the ids that were alive, when enough replicas have their end too.
   *
   * @throws {SessionNotReplicatedError}
   */
  async #confirmed(partition: number, { ended, servers }: Destroyed): Promise<readonly string[]> {
    if (this.barrier === null) return ended;
    const { waitForReplicas } = this.options;
    const [server = null] = servers;
    const { replicas, cause } = await this.barrier.confirm(partition, servers.size === 1 ? server : null);
    if (replicas >= waitForReplicas) return ended;
    throw new SessionNotReplicatedError(ended, replicas, waitForReplicas, this.options.waitMs, cause);
  }
}

import { partitionOfId } from '../core/session-token.js';

/**
 * Names of every Redis key and channel of this package. All keys of a partition share one hash tag (`{p}`), so that
 * one script may touch them together in Redis Cluster too.
 *
 * | key | type | holds |
 * |---|---|---|
 * | `sk:{p}:s:<id>` | string | the record, see redis-record.ts |
 * | `sk:{p}:u:<user>` | zset | ids of one user by last access |
 * | `sk:{p}:exp` | zset | `<id> <user>` by deadline (`+inf` when immortal) |
 * | `sk:{p}:act` | zset | `<id> <user>` by last access, written a moment later (activity-index.ts) |
 * | `sk:{p}:users` | zset | encoded users by last access, the same |
 * | `sk:{p}:fence:<user>`, `sk:{p}:fence` | string | epoch ms, ids: sessions of that user, of the partition, made up to then keep their ids while they are being ended, but for those named |
 * | `sk:{p}:sweep` | string | which process sweeps the partition at the moment |
 * | `sk:{p}:wait` | string | empty; written before a `WAIT` for replicas |
 * | `sk:layout`, in a Cluster `sk:{0}:layout` | string | layout number and partition count |
 * | `sk:inv`, in a Cluster `sk:{p}:inv` (sharded) | channel | invalidations |
 *
 * In a Cluster nobody ever sets `sk:{p}:probe`: who says that it does not exist owns the partition's slot.
 */
export class RedisKeys {
  readonly layout: string;
  readonly #channel: string | null;
  readonly #tagAt: number;
  readonly #prefixes: readonly string[];

  constructor(
    prefix: string,
    readonly partitions: number,
    readonly inCluster = false,
  ) {
    this.layout = inCluster ? `${prefix}{0}:layout` : `${prefix}layout`;
    this.#channel = inCluster ? null : `${prefix}inv`;
    this.#tagAt = prefix.length + 1;
    this.#prefixes = Array.from({ length: partitions }, (_, partition) => `${prefix}{${partition}}:`);
  }

  /** Where the changes of a partition's sessions are announced. */
  channelOf(partition: number): string {
    return this.#channel ?? `${this.#prefixes[partition]}inv`;
  }

  /** A key of the partition that is never set. */
  probe(partition: number): string {
    return `${this.#prefixes[partition]}probe`;
  }

  barrier(partition: number): string {
    return `${this.#prefixes[partition]}wait`;
  }

  /** The partition that a key with a partition's tag belongs to. */
  partitionOfKey(key: string): number {
    return Number(key.slice(this.#tagAt, key.indexOf('}', this.#tagAt)));
  }

  record(partition: number, id: string): string {
    return `${this.#prefixes[partition]}s:${id}`;
  }

  /** @param user encoded userId, see {@link encodeUserId} */
  user(partition: number, user: string): string {
    return `${this.#prefixes[partition]}u:${user}`;
  }

  deadlines(partition: number): string {
    return `${this.#prefixes[partition]}exp`;
  }

  activity(partition: number): string {
    return `${this.#prefixes[partition]}act`;
  }

  users(partition: number): string {
    return `${this.#prefixes[partition]}users`;
  }

  /** @param user encoded; empty for everybody's */
  fence(partition: number, user: string): string {
    return `${this.#prefixes[partition]}fence${user === '' ? '' : `:${user}`}`;
  }

  sweepClaim(partition: number): string {
    return `${this.#prefixes[partition]}sweep`;
  }

  /** Record, deadlines and, where there is a user, the user's index. `user` is encoded, empty for nobody. */
  ofRecord(id: string, user: string): string[] {
    const partition = this.partitionOf(id);
    const keys = [this.record(partition, id), this.deadlines(partition)];
    if (user !== '') keys.push(this.user(partition, user));
    return keys;
  }

  /** Record, all indexes of the partition and, where there is a user, the user's. */
  ofRecordAndIndexes(id: string, user: string): string[] {
    const partition = this.partitionOf(id);
    const keys = [this.record(partition, id), ...this.indexesOf(partition)];
    if (user !== '') keys.push(this.user(partition, user));
    return keys;
  }

  indexesOf(partition: number): string[] {
    return [this.deadlines(partition), this.activity(partition), this.users(partition)];
  }

  /** A user's index; a key that stands for none where there is no user. */
  userIndex(partition: number, user: string): string {
    return user === '' ? this.deadlines(partition) : this.user(partition, user);
  }

  partitionOf(id: string): number {
    const partition = partitionOfId(id, this.partitions);
    if (partition === null) throw new RangeError('not an id of this deployment'); // callers check ids first
    return partition;
  }

  eachPartition<R>(task: (partition: number) => R): R[] {
    return Array.from({ length: this.partitions }, (_, partition) => task(partition));
  }
}

/** Members of the deadlines and activity indexes are `<id> <encoded user>`. */
export const idOfMember = (member: string): string => member.slice(0, 23);
export const userOfMember = (member: string): string => member.slice(24);

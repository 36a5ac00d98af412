import { partitionOfId } from '../core/session-token.js';
import { SessionOptionsError } from '../errors/caller.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';

/**
 * Names of every Redis key and channel of this package. All keys of a partition share one hash tag (`{p}`), so that
 * one script may touch them together in Redis Cluster too.
 *
 * | key | type | holds |
 * |---|---|---|
 * | `sk:{p}:s:<id>` | string | the record, see redis-record.ts |
 * | `sk:{p}:u:<user>` | zset | ids of one user by last access |
 * | `sk:{p}:exp` | zset | `<id> <user>` by deadline (`+inf` when immortal) |
 * | `sk:{p}:act` | zset | ids by last access, written a moment later (activity-index.ts) |
 * | `sk:{p}:users` | zset | encoded users by last access, the same |
 * | `sk:{p}:fence:<user>`, `sk:{p}:fence` | string | epoch ms, ids: sessions of that user, of the partition, made up to then keep their ids while they are being ended, but for those named |
 * | `sk:{p}:sweep` | string | which process sweeps the partition at the moment |
 * | `sk:{p}:wait` | string | empty; written before a `WAIT` for replicas |
 * | `sk:layout`, in a Cluster `sk:{0}:layout` | string | layout number, partition count, and which of the indexes are kept |
 * | `sk:inv`, in a Cluster `sk:{p}:inv` (sharded) | channel | invalidations |
 *
 * The option `index` says which of the sorted sets are kept. A script finds its own keys first and the partition's
 * (`exp`, `act`, `users`) last, each only where the ones before it are kept too or mean something else there; where `exp`
 * is not, no index is. No key of one prefix can be a key of another one: prefixes have no braces, and what follows them
 * begins with one or is a word that ends no other word here.
 *
 * In a Cluster nobody ever sets `sk:{p}:probe`: who says that it does not exist owns the partition's slot.
 */
export class RedisKeys {
  readonly layout: string;
  /** Names of the indexes that are kept, for the layout marker. */
  readonly kept: string;
  readonly keepsDeadlines: boolean;
  readonly keepsUsers: boolean;
  readonly keepsActivity: boolean;
  readonly #channel: string | null;
  readonly #tagAt: number;
  readonly #prefixes: readonly string[];

  constructor(
    prefix: string,
    readonly partitions: number,
    index: ResolvedSessionOptions['index'],
    readonly inCluster = false,
  ) {
    this.keepsDeadlines = index !== false;
    this.keepsUsers = index !== false && index.users;
    this.keepsActivity = index !== false && index.activity;
    this.kept = keptIndexes(index);
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

  /** Record, [deadlines, [user's index]]. `user` is encoded, empty for nobody. */
  ofRecord(id: string, user: string): string[] {
    const partition = this.partitionOf(id);
    const keys = [this.record(partition, id)];
    if (this.keepsDeadlines) keys.push(this.deadlines(partition));
    if (this.keepsUsers && user !== '') keys.push(this.user(partition, user));
    return keys;
  }

  /**
   * Records and indexes for a script that touches all of them: the records, [for each user's index one, deadlines, [activity,
   * [users]]]. `users` are encoded.
   */
  ofAll(partition: number, records: readonly string[], users: readonly string[]): string[] {
    if (!this.keepsDeadlines) return [...records];
    return [
      ...records,
      ...users.map((user) => this.userIndex(partition, user)),
      ...this.indexesOf(partition),
    ];
  }

  /** Those of the partition that are kept: deadlines, activity, users. */
  indexesOf(partition: number): string[] {
    if (!this.keepsDeadlines) return [];
    const keys = [this.deadlines(partition)];
    if (this.keepsActivity) keys.push(this.activity(partition));
    if (this.keepsActivity && this.keepsUsers) keys.push(this.users(partition));
    return keys;
  }

  /** A user's index; the deadlines', which stands for none, where there is no user or no such index. */
  userIndex(partition: number, user: string): string {
    return user === '' || !this.keepsUsers ? this.deadlines(partition) : this.user(partition, user);
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

/** As they stand in the layout marker: names of keys. */
export function keptIndexes(index: ResolvedSessionOptions['index']): string {
  if (index === false) return 'none';
  return ['exp', ...(index.users ? ['u'] : []), ...(index.activity ? ['act'] : [])].join(' ');
}

/** The same as somebody writes it; null where it is none of ours. */
export function indexOption(kept: string): string | null {
  if (kept === 'none') return 'false';
  for (const users of [true, false])
    for (const activity of [true, false])
      if (keptIndexes({ users, activity }) === kept) return `{ users: ${users}, activity: ${activity} }`;
  return null;
}

/** Why a method has no answer where an index is not kept. */
export function withoutIndex(
  option: 'index' | 'index.users' | 'index.activity',
  what: string,
): SessionOptionsError {
  return new SessionOptionsError(option, `is false, so that ${what}. Drop it, with another keyPrefix.`);
}

/** Why a method has no answer where there is no index of users. */
export function withoutUsers({ keepsDeadlines }: RedisKeys): SessionOptionsError {
  const what = "a user's sessions cannot be found, counted or ended together";
  return withoutIndex(keepsDeadlines ? 'index.users' : 'index', what);
}

/** Members of the index of deadlines are `<id> <encoded user>`. */
export const idOfMember = (member: string): string => member.slice(0, 23);
export const userOfMember = (member: string): string => member.slice(24);

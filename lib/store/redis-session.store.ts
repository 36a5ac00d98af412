import type { Redis } from 'ioredis';
import type { SessionRecord } from '../core/session-record.interface.js';
import {
  SessionStore,
  type CreateResult,
  type ExpiredSession,
  type ListPage,
  type ListPosition,
  type ListQuery,
  type LoadedSession,
  type MoveResult,
  type NewSession,
  type SessionChange,
  type SessionStoreCapabilities,
  type SessionFence,
  type TouchResult,
  type UserSessions,
  type WriteResult,
} from '../core/session-store.js';
import type { SessionEvents } from '../events/session-events.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import { ActivityIndex } from './activity-index.js';
import { ClusterTopology } from './cluster-topology.js';
import { RedisCluster } from './redis-cluster.js';
import { RedisConnection } from './redis-connection.js';
import { RedisCreation } from './redis-creation.js';
import { RedisKeys } from './redis-keys.js';
import type { ClusterDirectory } from './redis-client.js';
import { RedisLists } from './redis-lists.js';
import { RedisMoves } from './redis-moves.js';
import { encodeUserId, formatIdle, formatTail, formatVersion, newNonce, parseTimes } from './redis-record.js';
import { RedisRecords } from './redis-records.js';
import { RedisRemoval } from './redis-removal.js';
import { RedisServerCheck } from './redis-server-check.js';
import { ReplicaBarrier } from './replica-barrier.js';
import { NOTE_ACTIVITY } from './scripts/index.lua.js';
import { SET, TOUCH } from './scripts/record.lua.js';

/** Most notes of activity one script writes. */
const NOTE_BATCH = 200;

/** What a connection is for; part of its name. */
type ConnectionPurpose = '' | '-wait';

/** How a store gets connections of its own to one Redis, none of them connected yet. */
export type ConnectsToRedis = (purpose: ConnectionPurpose) => Promise<Redis>;

/** And how to the nodes of a Cluster. */
export interface ConnectsToCluster {
  directory(): Promise<ClusterDirectory>;
  connectTo(directory: ClusterDirectory, node: string, purpose: ConnectionPurpose): Redis;
}

type Options = Pick<
  ResolvedSessionOptions,
  'keyPrefix' | 'partitions' | 'index' | 'instanceId' | 'commandTimeoutMs' | 'waitForReplicas' | 'coherence'
>;

/**
 * Sessions in Redis or Valkey 7.0 or newer, one server or a Cluster.
 *
 * Keys: see redis-keys.ts. Commands: `get` GET, behind a TIME once a second; one script each for the rest (`EVALSHA`,
 * `EVAL` the first time on a link): `create` TIME SET ZADD…; `set` GETRANGE TIME PUBLISH SET ZADD;
 * `touch` GETRANGE TIME SETRANGE PEXPIREAT ZADD; `destroy` TIME GET PUBLISH DEL ZREM. `userSessions`, `all` and `length`
 * read indexes in batches of 200 and fetch the records with MGET. Every change but a touch is announced in the step that
 * makes it, on `sk:inv`; in a Cluster on the sharded channel of its partition.
 * Each task has a class of its own beside this one: creation, moves, removal, lists, records, and the check of a server.
 *
 * @publicApi
 */
export class RedisSessionStore extends SessionStore {
  override readonly capabilities: SessionStoreCapabilities;
  /** @internal the subscriber watches it */
  readonly connection: RedisConnection | RedisCluster;
  /** @internal null but in a Cluster */
  readonly topology: ClusterTopology | null;
  /** @internal */
  readonly keys: RedisKeys;
  /** Null unless the end of a session waits for replicas. */
  readonly #barrier: ReplicaBarrier | null;
  readonly #origin: string;
  readonly #activity: ActivityIndex;
  readonly #records: RedisRecords;
  readonly #lists: RedisLists;
  readonly #creation: RedisCreation;
  readonly #moves: RedisMoves;
  readonly #removal: RedisRemoval;

  constructor(
    way: ConnectsToRedis | ConnectsToCluster,
    { keyPrefix, partitions, index, instanceId, commandTimeoutMs, waitForReplicas, coherence }: Options,
    private readonly events: SessionEvents,
  ) {
    super();
    const inCluster = typeof way !== 'function';
    const keys = (this.keys = new RedisKeys(keyPrefix, partitions, index, inCluster));
    this.capabilities = { versions: true, index: keys.keepsUsers, aliases: true, exclusive: false };
    const origin = (this.#origin = instanceId);
    const check = new RedisServerCheck(keys, keyPrefix);
    const topology = (this.topology = inCluster
      ? new ClusterTopology(
          () => way.directory(),
          keys.eachPartition((partition) => keys.probe(partition)),
        )
      : null);
    const open = (
      purpose: ConnectionPurpose,
      onAvailable: (available: boolean) => void,
      roleCheckMs: number,
    ) => {
      const connection = (connect: () => Promise<Redis>, tell: (available: boolean) => void) =>
        new RedisConnection(connect, (client) => check.run(client), commandTimeoutMs, tell, roleCheckMs);
      if (typeof way === 'function') return connection(() => way(purpose), onAvailable);
      return new RedisCluster(
        topology!,
        (node, tell) => connection(async () => way.connectTo(topology!.directory, node, purpose), tell),
        (key) => keys.partitionOfKey(key),
        commandTimeoutMs,
        onAvailable,
      );
    };
    const connection = (this.connection = open(
      '',
      (available) => events.emit('storeAvailable', { available }),
      coherence.heartbeatMs,
    ));
    // A third of the time a command has: whoever comes while others are waiting waits twice.
    const waitMs = Math.ceil(commandTimeoutMs / 3);
    const barrier = (this.#barrier =
      waitForReplicas === 0
        ? null
        : new ReplicaBarrier(
            open('-wait', () => undefined, 0),
            keys,
            waitForReplicas,
            waitMs,
          ));
    const activity = (this.#activity = new ActivityIndex(
      keys.keepsActivity ? (notes) => this.#writeActivity(notes) : null,
    ));
    const records = (this.#records = new RedisRecords(connection, keys, events));
    const lists = (this.#lists = new RedisLists(connection, keys, records, activity));
    this.#creation = new RedisCreation(connection, keys, lists, activity, origin);
    this.#moves = new RedisMoves(connection, keys, records, activity, origin, commandTimeoutMs, (session) =>
      this.create(session),
    );
    this.#removal = new RedisRemoval(connection, keys, activity, origin, barrier, {
      waitForReplicas,
      waitMs,
      fenceMs: commandTimeoutMs * 2 + 1_000,
    });
  }

  override async open(): Promise<void> {
    await this.connection.open();
    await this.#barrier?.links.open();
  }

  override async close(): Promise<void> {
    await this.#activity.close();
    await Promise.all([this.connection.close(), this.#barrier?.links.close()]);
    this.topology?.close();
  }

  override get breaker(): 'closed' | 'open' {
    return this.connection.breaker;
  }

  /** Name of the channel on which this store announces changes; in a Cluster that of partition 0. */
  get channel(): string {
    return this.keys.channelOf(0);
  }

  create(session: NewSession): Promise<CreateResult> {
    return this.#creation.create(session);
  }

  async get(id: string): Promise<LoadedSession | null> {
    const found = await this.#records.read(id);
    if (found === null || !('successor' in found)) return found;
    return found.now < found.readableUntil ? this.#readRecord(found.successor) : null;
  }

  override async successorOf(id: string): Promise<SessionRecord | null> {
    const found = await this.#records.read(id);
    return found !== null && 'successor' in found
      ? ((await this.#readRecord(found.successor))?.record ?? null)
      : null;
  }

  async #readRecord(id: string): Promise<LoadedSession | null> {
    const found = await this.#records.read(id);
    return found === null || 'successor' in found ? null : found; // what took a place was not rotated away again
  }

  async set(change: SessionChange): Promise<WriteResult> {
    const { base, idleTimeout = base.idleTimeout } = change;
    const user = encodeUserId(base.userId);
    const keys = this.keys.ofRecord(base.id, user);
    const { value, uncertain } = await this.connection.run('save a session', true, SET, keys, [
      formatVersion(base.version),
      newNonce(),
      change.keepExpiry ? '1' : '0',
      base.id,
      formatTail(user, base.metadata, change.data),
      this.keys.channelOf(this.keys.partitionOf(base.id)),
      this.#origin,
      ...(idleTimeout === base.idleTimeout ? [] : [formatIdle(idleTimeout)]),
    ]);
    if (typeof value !== 'string')
      return this.#records.refused(base.id, value as [0, string, number] | [-1], uncertain);
    const { version, lastAccess, now } = parseTimes(value);
    const { id, userId, createdAt, absoluteDeadline, metadata } = base;
    const { data } = change;
    // As parseRecord makes it: objects of one shape are read faster.
    const record = {
      id,
      userId,
      version,
      createdAt,
      lastAccess,
      idleTimeout,
      absoluteDeadline,
      metadata,
      data,
    };
    if (!change.keepExpiry) this.#activity.note(base.id, user, lastAccess);
    return { status: 'written', record, now };
  }

  async touch(
    id: string,
    minInterval: number,
    hint?: { userId: string | null },
  ): Promise<TouchResult | null> {
    let user = encodeUserId(hint?.userId ?? null);
    for (;;) {
      const { value } = await this.connection.run(
        'touch a session',
        true,
        TOUCH,
        this.keys.ofRecord(id, user),
        [id, user, minInterval],
      );
      if (typeof value === 'string') {
        const touched = parseTimes(value);
        this.#activity.note(id, user, touched.lastAccess);
        return touched;
      }
      const reply = value as [2, string] | [-1];
      if (reply[0] === -1) return null;
      // A session never changes its user: one repetition, unless the record is too damaged to tell.
      if (reply[1] === user) {
        this.events.emit('undecodable', { id, reason: 'the stored text is not a record of this layout' });
        return null;
      }
      user = reply[1];
    }
  }

  destroy(id: string, hint?: { userId: string | null }): Promise<boolean> {
    return this.#removal.destroy(id, hint);
  }

  override destroyMany(
    ids: readonly string[],
    userId: string,
    onEnded?: (ids: readonly string[]) => void,
  ): Promise<readonly string[]> {
    return this.#removal.destroyMany(ids, userId, onEnded);
  }

  override fence(userId: string, spared: readonly string[]): Promise<SessionFence> {
    return this.#removal.fence(userId, spared);
  }

  move(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    return this.#moves.move(base, next);
  }

  all(): AsyncGenerator<SessionRecord> {
    return this.#lists.all();
  }

  length(): Promise<number> {
    return this.#lists.length();
  }

  override now(): Promise<number> {
    return this.#lists.now();
  }

  override countActive(since: number): Promise<number> {
    return this.#lists.countActive(since);
  }

  override list(query: ListQuery): Promise<ListPage<SessionRecord>> {
    return this.#lists.list(query);
  }

  override listUsers(query: ListQuery): Promise<ListPage<ListPosition>> {
    return this.#lists.listUsers(query);
  }

  override userSessions(userId: string): Promise<UserSessions> {
    return this.#lists.userSessions(userId);
  }

  override sweep(
    onExpired: (session: ExpiredSession) => void,
    claimMs: number,
    isStopped?: () => boolean,
  ): Promise<void> {
    return this.#removal.sweep(onExpired, claimMs, isStopped);
  }

  clear(
    onEnded?: (sessions: readonly { readonly id: string; readonly userId: string | null }[]) => void,
  ): Promise<void> {
    return this.#removal.clear(onEnded);
  }

  async #writeActivity(notes: readonly (readonly [string, { user: string; at: number }])[]): Promise<void> {
    const byPartition = new Map<number, (string | number)[]>();
    for (const [id, { user, at }] of notes) {
      const partition = this.keys.partitionOf(id);
      const args = byPartition.get(partition) ?? [];
      byPartition.set(partition, args);
      args.push(id, user, at);
    }
    await Promise.all(
      [...byPartition].map(async ([partition, args]) => {
        for (let start = 0; start < args.length; start += NOTE_BATCH * 3) {
          const batch = args.slice(start, start + NOTE_BATCH * 3);
          await this.connection.run(
            'note activity',
            true,
            NOTE_ACTIVITY,
            this.keys.indexesOf(partition),
            batch,
            'background',
          );
        }
      }),
    );
  }
}

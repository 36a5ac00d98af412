import { setTimeout as delay } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import type { Redis } from 'ioredis';
import { deadlineOf, type SessionMetadata, type SessionRecord } from '../core/session-record.interface.js';
import {
  comesAfter,
  SessionStore,
  type Conflict,
  type CreateResult,
  type DisplacedSession,
  type ExpiredSession,
  type Gone,
  type ListPage,
  type ListPosition,
  type ListQuery,
  type LoadedSession,
  type MoveResult,
  type NewSession,
  type SessionChange,
  type SessionLimit,
  type TouchResult,
  type WriteResult,
} from '../core/session-store.js';
import { withRandomBytes } from '../core/random-pool.js';
import { partitionOfId, partitionOfUser } from '../core/session-token.js';
import type { SessionEvents } from '../events/session-events.js';
import { SessionOptionsError } from '../errors/caller.errors.js';
import { SessionNotReplicatedError, SessionStoreUnavailableError } from '../errors/state.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import { RedisConnection } from './redis-connection.js';
import { ReplicaBarrier } from './replica-barrier.js';
import { RedisKeys } from './redis-keys.js';
import {
  aliasOf,
  decodeUserId,
  encodeUserId,
  formatTail,
  formatVersion,
  isMoved,
  parseMetadata,
  parseRecord,
} from './redis-record.js';
import { ActivityIndex } from './activity-index.js';
import { CREATE_LIMITED, NOTE_ACTIVITY, SWEEP } from './scripts/index.lua.js';
import { CREATE, DESTROY, GET, SET, TOUCH } from './scripts/record.lua.js';
import { MARK_MOVED, RESTORE_MOVED, ROTATE } from './scripts/move.lua.js';

/** Most records one command or script touches, so that none holds Redis up for long. */
const BATCH = 200;
/** Most sessions that one script removes, each with its indexes: some 2 ms of the server's time. */
const REMOVE_BATCH = 50;
/** How often a user's list is read again because it changed meanwhile. */
const MAX_LISTINGS = 100;
/** Layout number of keys and records, written to `sk:layout` with the partition count. */
const LAYOUT = 1;

type Options = Pick<
  ResolvedSessionOptions,
  'keyPrefix' | 'partitions' | 'instanceId' | 'commandTimeoutMs' | 'waitForReplicas' | 'coherence'
>;

/** Ids of sessions that were alive, and the servers (by `run_id`) on which they ended: one, but for a failover. */
interface Destroyed {
  readonly ended: string[];
  readonly servers: Set<string | null>;
}

/**
 * Sessions in Redis or Valkey 7.0 or newer.
 *
 * Keys: see redis-keys.ts. Commands: one script each (`EVALSHA`, `EVAL` the first time on a link): `get` GET TIME;
 * `create` GET TIME SET ZADD…; `set` GET TIME PUBLISH SET ZADD; `touch` GETRANGE TIME SETRANGE PEXPIREAT ZADD;
 * `destroy` GET PUBLISH DEL ZREM. `userSessions`, `all` and `length` read indexes in batches of 200 and fetch the
 * records with MGET. Every change but a touch is announced on `sk:inv` in the step that makes it.
 *
 * @publicApi
 */
export class RedisSessionStore extends SessionStore {
  override readonly capabilities = { versions: true, index: true, aliases: true, exclusive: false } as const;
  /** @internal the subscriber watches it */
  readonly connection: RedisConnection;
  /** Null unless the end of a session waits for replicas. */
  readonly #barrier: ReplicaBarrier | null;
  readonly #logger = new Logger('SessionModule');
  readonly #keys: RedisKeys;
  readonly #origin: string;
  readonly #activity: ActivityIndex;
  #warnedOfEviction = false;

  /** @param connect makes a client, not yet connected; `purpose` is part of its name */
  constructor(
    connect: (purpose: '' | '-wait') => Promise<Redis>,
    private readonly options: Options,
    private readonly events: SessionEvents,
  ) {
    super();
    this.#keys = new RedisKeys(options.keyPrefix, options.partitions);
    this.#origin = options.instanceId;
    this.#activity = new ActivityIndex((notes) => this.#writeActivity(notes));
    const open = (purpose: '' | '-wait', onAvailable: (available: boolean) => void, roleCheckMs: number) =>
      new RedisConnection(
        () => connect(purpose),
        (client) => this.#checkServer(client),
        options.commandTimeoutMs,
        onAvailable,
        roleCheckMs,
      );
    this.connection = open(
      '',
      (available) => events.emit('storeAvailable', { available }),
      options.coherence.heartbeatMs,
    );
    const { waitForReplicas } = options;
    this.#barrier =
      waitForReplicas === 0
        ? null
        : new ReplicaBarrier(
            open('-wait', () => undefined, 0),
            this.#keys.barrier,
            waitForReplicas,
            this.#waitMs,
          );
  }

  override async open(): Promise<void> {
    await this.connection.open();
    await this.#barrier?.connection.open();
  }

  override async close(): Promise<void> {
    await this.#activity.close();
    await Promise.all([this.connection.close(), this.#barrier?.connection.close()]);
  }

  /** Name of the channel on which this store announces changes. */
  get channel(): string {
    return this.#keys.channel;
  }

  async create(session: NewSession): Promise<CreateResult> {
    const { limit, userId } = session;
    const result =
      limit === undefined || userId === null
        ? await this.#create(session)
        : await this.#createLimited(session, userId, limit);
    if (result.status === 'created') this.#noteUse(result.record);
    return result;
  }

  async #create(session: NewSession): Promise<CreateResult> {
    const { keys, user } = this.#keysOf(session.id, session.userId);
    const { value, uncertain } = await this.connection.run('create a session', true, CREATE, keys, [
      newNonce(),
      session.idleTimeout,
      session.absoluteTimeout,
      session.id,
      user,
      formatTail(session),
      ...(session.given === true ? [this.#keys.channel, this.#origin] : []),
    ]);
    const reply = value as number[];
    if (reply[0] === 1) return { status: 'created', ...created(session, reply) };
    // The id may be ours, created by the try whose reply was lost and changed by someone since.
    if (uncertain)
      throw new SessionStoreUnavailableError('create a session', 'the link broke meanwhile', true);
    return { status: 'taken' };
  }

  async get(id: string): Promise<LoadedSession | null> {
    const found = await this.#read(id);
    if (found === null || !('successor' in found)) return found;
    return found.now < found.readableUntil ? this.#readRecord(found.successor) : null;
  }

  override async successorOf(id: string): Promise<SessionRecord | null> {
    const found = await this.#read(id);
    return found !== null && 'successor' in found
      ? ((await this.#readRecord(found.successor))?.record ?? null)
      : null;
  }

  async #readRecord(id: string): Promise<LoadedSession | null> {
    const found = await this.#read(id);
    return found === null || 'successor' in found ? null : found; // what took a place was not rotated away again
  }

  async #read(
    id: string,
  ): Promise<
    | LoadedSession
    | { readonly successor: string; readonly readableUntil: number; readonly now: number }
    | null
  > {
    const key = this.#keys.record(this.#partition(id), id);
    const { value } = await this.connection.run('get a session', false, GET, [key], []);
    if (value === null) return null;
    const [text, seconds, micros] = value as [string, string, string];
    if (isMoved(text)) return null;
    const now = milliseconds([seconds, micros]);
    const alias = aliasOf(text);
    if (alias !== null) return { successor: alias.id, readableUntil: alias.readableUntil, now };
    const loaded = this.#loaded(id, text, now);
    return loaded === null || deadlineOf(loaded.record) <= loaded.now ? null : loaded;
  }

  async set(change: SessionChange): Promise<WriteResult> {
    const { base, idleTimeout = base.idleTimeout } = change;
    const { keys } = this.#keysOf(base.id, base.userId);
    const { value, uncertain } = await this.connection.run('save a session', true, SET, keys, [
      formatVersion(base.version),
      newNonce(),
      change.keepExpiry ? '1' : '0',
      base.id,
      formatTail({ ...base, data: change.data }),
      this.#keys.channel,
      this.#origin,
      ...(idleTimeout === base.idleTimeout ? [] : [idleTimeout]),
    ]);
    const reply = value as [1, number, number, number] | [0, string, number] | [-1];
    if (reply[0] !== 1) return this.#refused(base.id, reply, uncertain);
    const [, version, lastAccess, now] = reply;
    const record = { ...base, version, lastAccess, idleTimeout, data: change.data };
    if (!change.keepExpiry) this.#noteUse(record);
    return { status: 'written', record, now };
  }

  async touch(
    id: string,
    minInterval: number,
    hint?: { userId: string | null },
  ): Promise<TouchResult | null> {
    let user = encodeUserId(hint?.userId ?? null);
    for (;;) {
      const { value } = await this.connection.run('touch a session', true, TOUCH, this.#keysFor(id, user), [
        id,
        user,
        minInterval,
      ]);
      const reply = value as [1, number, number, number] | [2, string] | [-1];
      if (reply[0] === -1) return null;
      if (reply[0] === 1) {
        this.#activity.note(id, user, reply[2]);
        return { version: reply[1], lastAccess: reply[2], now: reply[3] };
      }
      // A session never changes its user: one repetition, unless the record is too damaged to tell.
      if (reply[1] === user) {
        this.events.emit('undecodable', { id, reason: 'the stored text is not a record of this layout' });
        return null;
      }
      user = reply[1];
    }
  }

  async destroy(id: string, hint?: { userId: string | null }): Promise<boolean> {
    const users = [encodeUserId(hint?.userId ?? null)];
    const done = await this.#destroyBatch(this.#partition(id), [id], users);
    return (await this.#confirmed(done)).length === 1;
  }

  override async destroyMany(ids: readonly string[], userId: string): Promise<readonly string[]> {
    const partition = partitionOfUser(userId, this.#keys.partitions);
    const user = encodeUserId(userId);
    const all: Destroyed = { ended: [], servers: new Set([this.connection.server]) };
    for (let start = 0; start < ids.length; start += REMOVE_BATCH) {
      const batch = ids.slice(start, start + REMOVE_BATCH);
      const done = await this.#destroyBatch(
        partition,
        batch,
        batch.map(() => user),
      );
      all.ended.push(...done.ended);
      for (const server of done.servers) all.servers.add(server);
    }
    return this.#confirmed(all);
  }

  async move(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const sameUser = base.userId === next.userId;
    return sameUser && this.#partition(base.id) === this.#partition(next.id)
      ? this.#rotate(base, next)
      : this.#moveAcross(base, next);
  }

  async *all(): AsyncGenerator<SessionRecord> {
    for (let partition = 0; partition < this.#keys.partitions; partition++) {
      const seen = new Set<string>(); // ZSCAN may repeat a member
      let cursor = '0';
      do {
        const [next, flat] = await this.connection.read('list sessions', (client) =>
          client.zscan(this.#keys.deadlines(partition), cursor, 'COUNT', BATCH),
        );
        cursor = next;
        const ids = flat
          .filter((_, index) => index % 2 === 0)
          .map(idOfMember)
          .filter((id) => !seen.has(id));
        for (const id of ids) seen.add(id);
        yield* (await this.#readMany(partition, ids)).records;
      } while (cursor !== '0');
    }
  }

  async length(): Promise<number> {
    return sum(await Promise.all(this.#eachPartition((partition) => this.#countPartition(partition))));
  }

  override async now(): Promise<number> {
    return milliseconds(await this.connection.read('read the clock', (client) => client.time()));
  }

  override async countActive(since: number): Promise<number> {
    await this.#activity.flush();
    const counts = await this.connection.read('count sessions', (client) =>
      Promise.all(
        this.#eachPartition((partition) => client.zcount(this.#keys.activity(partition), since, '+inf')),
      ),
    );
    return sum(counts) - (await this.#countExpired(since));
  }

  /** What has expired and was not swept yet, of what was active since then. */
  async #countExpired(since: number): Promise<number> {
    const now = await this.now();
    const counts = this.#eachPartition(async (partition) => {
      let count = 0;
      for (let offset = 0; ; offset += BATCH) {
        const due = await this.connection.read('count sessions', (client) =>
          client.zrangebyscore(this.#keys.deadlines(partition), '-inf', String(now), 'LIMIT', offset, BATCH),
        );
        if (due.length === 0) return count;
        const live = new Set(
          (await this.#readMany(partition, due.map(idOfMember))).records.map(({ id }) => id),
        );
        const scores = await this.connection.read('count sessions', (client) =>
          client.zmscore(this.#keys.activity(partition), ...due),
        );
        count += due.filter(
          (member, i) =>
            !live.has(idOfMember(member)) &&
            scores[i] !== null &&
            scores[i] !== undefined &&
            Number(scores[i]) >= since,
        ).length;
        if (due.length < BATCH) return count;
      }
    });
    return sum(await Promise.all(counts));
  }

  override list(query: ListQuery): Promise<ListPage<SessionRecord>> {
    return this.#listBy(query, 'activity', async (places) => {
      const records = await this.#readPlaces(
        places.map(({ partition, member }) => [partition, idOfMember(member)]),
      );
      return places.map(({ member }) => records.get(idOfMember(member)));
    });
  }

  override async listUsers({ after, ...query }: ListQuery): Promise<ListPage<ListPosition>> {
    // Places of the index have users encoded, and are in that order.
    const from = after && { ...after, id: encodeUserId(after.id) };
    const page = await this.#listUsers({ ...query, after: from });
    const { next } = page;
    return { ...page, next: next && { ...next, id: decodeUserId(next.id) ?? '' } };
  }

  #listUsers(query: ListQuery): Promise<ListPage<ListPosition>> {
    return this.#listBy(query, 'users', async (places) => {
      // Their sessions may have expired and not been swept yet: nearly always the newest one tells.
      const newest = await this.connection.read('list users', (client) =>
        Promise.all(
          places.map(({ partition, member }) => client.zrevrange(this.#keys.user(partition, member), 0, 0)),
        ),
      );
      const ids = newest.map(([id]) => id);
      const live = await this.#readPlaces(
        places.flatMap(({ partition }, index) => (ids[index] === undefined ? [] : [[partition, ids[index]]])),
      );
      return Promise.all(
        places.map(async ({ member, lastAccess }, index) => {
          const id = decodeUserId(member) ?? '';
          const isLive = live.has(ids[index] ?? '') || (await this.userSessions(id)).records.length > 0;
          return isLive ? { id, lastAccess } : undefined;
        }),
      );
    });
  }

  /**
   * One removes what is due in a partition; the others find the partition claimed. Should two do it all the same, each
   * session is still removed, and told, by one of them.
   */
  override async sweep(
    onExpired: (session: ExpiredSession) => void,
    claimMs: number,
    isStopped: () => boolean = () => false,
  ): Promise<void> {
    const first = Math.floor(Math.random() * this.#keys.partitions);
    for (let count = 0; count < this.#keys.partitions && !isStopped(); count++) {
      const partition = (first + count) % this.#keys.partitions;
      const claim = await this.connection.read('claim a sweep', (client) =>
        client.set(this.#keys.sweepClaim(partition), this.#origin, 'PX', claimMs, 'NX'),
      );
      if (claim !== null) while ((await this.#sweepBatch(partition, onExpired)) && !isStopped());
    }
  }

  async clear(
    onEnded?: (sessions: readonly { readonly id: string; readonly userId: string | null }[]) => void,
  ): Promise<void> {
    let unconfirmed: SessionNotReplicatedError | undefined;
    for (let partition = 0; partition < this.#keys.partitions; partition++) {
      let cursor = '0';
      do {
        // Scanned, not taken from the front: what is created meanwhile would keep it going for ever.
        const [next, flat] = await this.connection.read('end all sessions', (client) =>
          client.zscan(this.#keys.deadlines(partition), cursor, 'COUNT', BATCH),
        );
        cursor = next;
        const members = flat.filter((_, index) => index % 2 === 0);
        for (let start = 0; start < members.length; start += REMOVE_BATCH) {
          const batch = members.slice(start, start + REMOVE_BATCH);
          const done = await this.#destroyBatch(partition, batch.map(idOfMember), batch.map(userOfMember));
          const alive = new Set(done.ended);
          onEnded?.(
            batch
              .filter((member) => alive.has(idOfMember(member)))
              .map((member) => ({ id: idOfMember(member), userId: decodeUserId(userOfMember(member)) })),
          );
          try {
            await this.#confirmed(done);
          } catch (error) {
            if (!(error instanceof SessionNotReplicatedError)) throw error;
            unconfirmed = error.and(unconfirmed); // the others must end too
          }
        }
      } while (cursor !== '0');
    }
    if (unconfirmed !== undefined) throw unconfirmed;
  }

  override async userSessions(userId: string): Promise<{ records: SessionRecord[]; now: number }> {
    const partition = partitionOfUser(userId, this.#keys.partitions);
    const key = this.#keys.user(partition, encodeUserId(userId));
    const found = new Map<string, SessionRecord>();
    const read = new Set<string>();
    let now = 0;
    for (let tries = 1; ; tries++) {
      const ids = await this.connection.read("list a user's sessions", (client) =>
        client.zrevrange(key, 0, -1),
      );
      const unread = ids.filter((id) => !read.has(id));
      if (unread.length > 0 || tries === 1) {
        const listed = await this.#readMany(partition, unread);
        for (const id of unread) read.add(id);
        for (const record of listed.records) found.set(record.id, record);
        now = listed.now;
        // A session regenerated between both reads has its record under a new id, which nobody has looked at yet:
        // without another look, killUser() would take an empty answer for a finished job.
        if (listed.records.length < unread.length) {
          if (tries === MAX_LISTINGS)
            throw new SessionStoreUnavailableError("list a user's sessions", 'they kept changing', false);
          // Not in step with whoever replaces them; the first time it is nearly always one that has expired.
          if (tries > 1) await delay(Math.random() * Math.min(2 ** tries, 16));
          continue;
        }
      }
      return { records: ids.flatMap((id) => found.get(id) ?? []), now };
    }
  }

  // --- lists and limits -----------------------------------------------------------------------------------------

  /**
   * A part of a list over all partitions. Each has its own index, of which a little more than its share is read; what
   * stands behind the last entry read of any partition is not known to be complete, and left for the next look.
   *
   * @param load gives for each place what is to be shown, undefined where nothing is
   */
  async #listBy<E>(
    { activeSince, after, limit }: ListQuery,
    index: 'activity' | 'users',
    load: (places: readonly Place[]) => Promise<readonly (E | undefined)[]>,
  ): Promise<ListPage<E>> {
    await this.#activity.flush();
    const entries: E[] = [];
    const count = Math.ceil((limit + 1) / this.#keys.partitions) * 2 + 2;
    for (let position = after; ;) {
      const from = position;
      const parts = await Promise.all(
        this.#eachPartition((partition) => this.#placesAfter(partition, index, from, activeSince, count)),
      );
      const places = parts.flat().sort((a, b) => (comesAfter(a, b) ? 1 : -1));
      const ends = parts.flatMap((part) => (part.length < count ? [] : part.slice(-1)));
      const known = places.filter((place) => !ends.some((end) => comesAfter(place, end)));
      const shown = known.slice(0, limit - entries.length);
      for (const entry of await load(shown)) if (entry !== undefined) entries.push(entry);
      const last = shown.at(-1);
      if (last !== undefined) position = { lastAccess: last.lastAccess, id: last.id };
      const isEnd = ends.length === 0 && shown.length === places.length;
      if (isEnd || entries.length === limit)
        return { entries, next: isEnd ? null : position!, now: await this.now() };
    }
  }

  /** Records by id of those that are live. */
  async #readPlaces(
    places: readonly (readonly [partition: number, id: string])[],
  ): Promise<ReadonlyMap<string, SessionRecord>> {
    const groups = new Map<number, string[]>();
    for (const [partition, id] of places) {
      const ids = groups.get(partition) ?? [];
      groups.set(partition, ids);
      ids.push(id);
    }
    const found = await Promise.all(
      [...groups].map(async ([partition, ids]) => (await this.#readMany(partition, ids)).records),
    );
    return new Map(found.flat().map((record) => [record.id, record]));
  }

  async #placesAfter(
    partition: number,
    index: 'activity' | 'users',
    after: ListPosition | undefined,
    activeSince: number | undefined,
    count: number,
  ): Promise<Place[]> {
    const places: Place[] = [];
    // Entries of the same millisecond as the last one shown are read again, and those before it left out.
    for (let offset = 0; places.length < count; offset += count) {
      const flat = await this.connection.read('list by activity', (client) =>
        client.zrevrangebyscore(
          this.#keys[index](partition),
          after?.lastAccess ?? '+inf',
          activeSince ?? '-inf',
          'WITHSCORES',
          'LIMIT',
          offset,
          count,
        ),
      );
      for (let at = 0; at < flat.length; at += 2) {
        const member = flat[at]!;
        // Ordered, and named by cursors, as Redis orders them: a user by the encoded id.
        const id = index === 'users' ? member : idOfMember(member);
        const place = { partition, member, id, lastAccess: Number(flat[at + 1]) };
        if (after === undefined || comesAfter(place, after)) places.push(place);
      }
      if (flat.length < count * 2) break;
    }
    return places.slice(0, count);
  }

  async #createLimited(session: NewSession, userId: string, limit: SessionLimit): Promise<CreateResult> {
    const { id } = session;
    const partition = this.#partition(id);
    const user = encodeUserId(userId);
    const nonce = newNonce();
    const displaced: DisplacedSession[] = [];
    let offered: readonly string[] = [];
    for (let tries = 0; tries < MAX_LISTINGS; tries++) {
      const { value, uncertain } = await this.connection.run(
        'create a session',
        true,
        CREATE_LIMITED,
        [
          this.#keys.record(partition, id),
          this.#keys.deadlines(partition),
          this.#keys.user(partition, user),
          this.#keys.activity(partition),
          this.#keys.users(partition),
          ...offered.map((other) => this.#keys.record(partition, other)),
        ],
        [
          nonce,
          session.idleTimeout,
          session.absoluteTimeout,
          id,
          user,
          formatTail(session),
          this.#keys.channel,
          this.#origin,
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
      const ended = reply[0] === 1 ? reply[6] : reply[2];
      for (let at = 0; at < ended.length; at += 3) {
        const [other, reason, metadata] = ended.slice(at, at + 3) as [string, 'evicted' | 'expired', string];
        this.#activity.forget(other);
        displaced.push({ id: other, reason, metadata: readMetadata(metadata) });
      }
      if (reply[0] === 1)
        return { status: 'created', displaced, ...created(session, reply as readonly number[]) };
      if (reply[0] === 3) return { status: 'limit', displaced };
      offered = reply[1]; // and at once: the longer it waits, the more others have replaced
    }
    throw new SessionStoreUnavailableError('create a session', "the user's sessions kept changing", false);
  }

  /** True when there may be more. */
  async #sweepBatch(partition: number, onExpired: (session: ExpiredSession) => void): Promise<boolean> {
    const deadlines = this.#keys.deadlines(partition);
    const members = await this.connection.read('sweep', async (client) =>
      client.zrangebyscore(deadlines, '-inf', milliseconds(await client.time()), 'LIMIT', 0, REMOVE_BATCH),
    );
    if (members.length === 0) return false;
    const ids = members.map(idOfMember);
    const users = members.map(userOfMember);
    const { value } = await this.connection.run(
      'sweep',
      true,
      SWEEP,
      [
        ...this.#indexesOf(partition),
        ...ids.map((id) => this.#keys.record(partition, id)),
        ...users.map((user) => this.#userIndex(partition, user)),
      ],
      [...ids, ...users],
    );
    for (const [index, metadata] of (value as (string | 0)[]).entries()) {
      if (metadata === 0) continue;
      const [id, user] = [ids[index]!, users[index]!];
      this.#activity.forget(id);
      onExpired({ id, userId: decodeUserId(user), metadata: readMetadata(metadata) });
    }
    return members.length === REMOVE_BATCH;
  }

  async #writeActivity(notes: readonly (readonly [string, { user: string; at: number }])[]): Promise<void> {
    const byPartition = new Map<number, (string | number)[]>();
    for (const [id, { user, at }] of notes) {
      const partition = this.#partition(id);
      const args = byPartition.get(partition) ?? [];
      byPartition.set(partition, args);
      args.push(`${id} ${user}`, user, at);
    }
    await Promise.all(
      [...byPartition].map(async ([partition, args]) => {
        for (let start = 0; start < args.length; start += BATCH * 3) {
          const batch = args.slice(start, start + BATCH * 3);
          await this.connection.run('note activity', true, NOTE_ACTIVITY, this.#indexesOf(partition), batch);
        }
      }),
    );
  }

  #eachPartition<R>(task: (partition: number) => R): R[] {
    return Array.from({ length: this.#keys.partitions }, (_, partition) => task(partition));
  }

  // --- moving ---------------------------------------------------------------------------------------------------

  async #rotate(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const partition = this.#partition(base.id);
    const user = encodeUserId(base.userId);
    const keys = [this.#keys.record(partition, base.id), ...this.#indexKeysFor(next.id, user)];
    const { value, uncertain } = await this.connection.run('regenerate a session', true, ROTATE, keys, [
      formatVersion(base.version),
      newNonce(),
      base.id,
      next.id,
      user,
      next.idleTimeout,
      formatTail(next),
      this.#keys.channel,
      this.#origin,
      next.restartsAbsolute === true ? next.absoluteTimeout : '',
      ...(next.alias === undefined ? [] : [next.alias.keepMs, next.alias.readMs]),
    ]);
    const reply = value as [1, number, number, number, number, number] | [0, string, number] | [-1];
    if (reply[0] !== 1) return this.#refused(base.id, reply, uncertain);
    const moved = created(next, reply);
    this.#activity.forget(base.id);
    this.#noteUse(moved.record);
    return { status: 'moved', ...moved };
  }

  /**
   * Two slots, so two steps: mark the old session as moved (it counts as absent from then on), create the new one.
   * If that fails for certain, the old one is put back while its mark stands; if it may have worked, it is not:
   * a crash or a lost reply may cost the login, never leave two usable tokens.
   */
  async #moveAcross(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const user = encodeUserId(base.userId);
    const old = { user, keys: this.#indexKeysFor(base.id, user) };
    const nonce = newNonce();
    const { value, uncertain } = await this.connection.run(
      'regenerate a session',
      true,
      MARK_MOVED,
      old.keys,
      [
        formatVersion(base.version),
        nonce,
        base.id,
        old.user,
        this.#keys.channel,
        this.#origin,
        this.options.commandTimeoutMs * 2 + 1_000,
      ],
    );
    const reply = value as [1] | [0, string, number] | [-1];
    if (reply[0] !== 1) return this.#refused(base.id, reply, uncertain);
    try {
      const result = await this.create(next);
      if (result.status === 'created') return { ...result, status: 'moved' };
      if (result.status === 'limit') {
        await this.#restore(old, base, nonce);
        return result;
      }
      throw new SessionStoreUnavailableError('regenerate a session', 'the new id was taken', false);
    } catch (error) {
      if (error instanceof SessionStoreUnavailableError && error.outcomeUnknown) throw error;
      await this.#restore(old, base, nonce, error);
      throw error;
    }
  }

  /** @throws {SessionStoreUnavailableError} if the session that was to be replaced could not be put back */
  async #restore(
    old: { readonly keys: readonly string[]; readonly user: string },
    { id, lastAccess: at }: SessionRecord,
    nonce: string,
    cause?: unknown,
  ): Promise<void> {
    const restored = await this.connection
      .run('restore a session', true, RESTORE_MOVED, old.keys, [
        nonce,
        id,
        old.user,
        this.#keys.channel,
        this.#origin,
      ])
      .catch(() => null);
    if (restored?.value === 1) {
      this.#activity.note(id, old.user, at);
      return;
    }
    throw new SessionStoreUnavailableError(
      'regenerate a session',
      'the new one could not be made, nor the old one be kept',
      true,
      { cause },
    );
  }

  // --- helpers --------------------------------------------------------------------------------------------------

  #refused(id: string, reply: [0, string, number] | [-1], uncertain: boolean): Gone | Conflict {
    if (reply[0] === -1) return { status: 'gone' };
    const current = this.#loaded(id, reply[1], reply[2]);
    return current === null ? { status: 'gone' } : { status: 'conflict', uncertain, ...current };
  }

  #loaded(id: string, text: string, now: number): LoadedSession | null {
    const record = parseRecord(id, text);
    if (record !== null) return { record, now };
    this.events.emit('undecodable', { id, reason: 'the stored text is not a record of this layout' });
    return null;
  }

  async #readMany(
    partition: number,
    ids: readonly string[],
  ): Promise<{ records: SessionRecord[]; now: number }> {
    const records: SessionRecord[] = [];
    let now = 0;
    for (let start = 0; start < ids.length || now === 0; start += BATCH) {
      const batch = ids.slice(start, start + BATCH);
      const [time, texts] = await this.connection.read('list sessions', (client) =>
        Promise.all([
          client.time(),
          batch.length === 0 ? [] : client.mget(batch.map((id) => this.#keys.record(partition, id))),
        ]),
      );
      now = milliseconds(time);
      for (const [index, text] of texts.entries()) {
        if (text === null || isMoved(text) || aliasOf(text) !== null) continue;
        const record = this.#loaded(batch[index]!, text, now)?.record;
        if (record !== undefined && deadlineOf(record) > now) records.push(record);
      }
    }
    return { records, now };
  }

  /** Scores are deadlines as of the last create: what they call due may have been touched since, and is looked at. */
  async #countPartition(partition: number): Promise<number> {
    const key = this.#keys.deadlines(partition);
    const time = await this.connection.read('count sessions', (client) => client.time());
    const now = milliseconds(time);
    let count = await this.connection.read('count sessions', (client) =>
      client.zcount(key, `(${now}`, '+inf'),
    );
    for (let offset = 0; ; offset += BATCH) {
      const due = await this.connection.read('count sessions', (client) =>
        client.zrangebyscore(key, '-inf', String(now), 'LIMIT', offset, BATCH),
      );
      count += (await this.#readMany(partition, due.map(idOfMember))).records.length;
      if (due.length < BATCH) return count;
    }
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
      [
        ...this.#indexesOf(partition),
        ...ids.map((id) => this.#keys.record(partition, id)),
        ...users.map((user) => this.#userIndex(partition, user)),
      ],
      [this.#keys.channel, this.#origin, ...ids, ...users],
    );
    for (const id of ids) this.#activity.forget(id);
    const replies = value as (number | string)[];
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

  /** A third of the time a command has: whoever comes while others are waiting waits twice. */
  get #waitMs(): number {
    return Math.ceil(this.options.commandTimeoutMs / 3);
  }

  /**
   * Resolves to the ids that were alive, when enough replicas have their end too.
   *
   * @throws {SessionNotReplicatedError}
   */
  async #confirmed({ ended, servers }: Destroyed): Promise<readonly string[]> {
    if (this.#barrier === null) return ended;
    const { waitForReplicas } = this.options;
    const [server = null] = servers;
    const { replicas, cause } = await this.#barrier.confirm(servers.size === 1 ? server : null);
    if (replicas >= waitForReplicas) return ended;
    throw new SessionNotReplicatedError(ended, replicas, waitForReplicas, this.#waitMs, cause);
  }

  #keysOf(id: string, userId: string | null): { keys: string[]; user: string } {
    const user = encodeUserId(userId);
    return { keys: this.#keysFor(id, user), user };
  }

  /** Record, deadlines and, where there is a user, the user's index. */
  #keysFor(id: string, user: string): string[] {
    const partition = this.#partition(id);
    const keys = [this.#keys.record(partition, id), this.#keys.deadlines(partition)];
    if (user !== '') keys.push(this.#keys.user(partition, user));
    return keys;
  }

  /** Record, all indexes of the partition and, where there is a user, the user's. */
  #indexKeysFor(id: string, user: string): string[] {
    const partition = this.#partition(id);
    const keys = [this.#keys.record(partition, id), ...this.#indexesOf(partition)];
    if (user !== '') keys.push(this.#keys.user(partition, user));
    return keys;
  }

  #indexesOf(partition: number): string[] {
    return [this.#keys.deadlines(partition), this.#keys.activity(partition), this.#keys.users(partition)];
  }

  /** A user's index; a key that stands for none where there is no user. */
  #userIndex(partition: number, user: string): string {
    return user === '' ? this.#keys.deadlines(partition) : this.#keys.user(partition, user);
  }

  #noteUse({ id, userId, lastAccess }: SessionRecord): void {
    this.#activity.note(id, encodeUserId(userId), lastAccess);
  }

  #partition(id: string): number {
    const partition = partitionOfId(id, this.#keys.partitions);
    if (partition === null) throw new RangeError('not an id of this deployment'); // callers check ids first
    return partition;
  }

  /** Runs on every new link: version and role of the server, the layout marker, and once the eviction policy. Resolves to its `run_id`. */
  async #checkServer(client: Redis): Promise<string | null> {
    const info = await client.info().catch(() => ''); // where an ACL forbids it, these checks are left out
    const version = /^redis_version:(\d+)\.(\S+)/m.exec(info);
    if (version !== null && Number(version[1]) < 7) {
      throw new SessionOptionsError(
        'redis',
        `leads to Redis ${version[1]}.${version[2]}; 7.0 or newer is needed (or Valkey). Upgrade the server.`,
      );
    }
    // Not left to a refused write: until then, reads would be served from what may be an old copy.
    if (/^role:slave/m.test(info)) throw new Error('it is a replica, and only a master may be read from');
    const wanted = `${LAYOUT} ${this.#keys.partitions}`;
    let found = await client.get(this.#keys.layout);
    if (found === null) {
      // Only where it is missing: a full server (OOM) still serves the sessions it has.
      await client.set(this.#keys.layout, wanted, 'NX');
      found = await client.get(this.#keys.layout);
    }
    if (found !== wanted) {
      const [layout, partitions] = (found ?? '').split(' ');
      throw layout === String(LAYOUT)
        ? new SessionOptionsError(
            'partitions',
            `is ${this.#keys.partitions}, but the sessions under the prefix "${this.options.keyPrefix}" were laid out with ` +
              `${partitions}. Set partitions: ${partitions}, or choose another keyPrefix.`,
          )
        : new SessionOptionsError(
            'keyPrefix',
            `"${this.options.keyPrefix}" is in use by another layout of sessions. Choose another keyPrefix.`,
          );
    }
    const policy = /^maxmemory_policy:(\S+)/m.exec(info)?.[1];
    if (policy !== undefined && policy !== 'noeviction' && !this.#warnedOfEviction) {
      this.#warnedOfEviction = true;
      this.#logger.warn(
        `Redis has maxmemory-policy "${policy}" and may drop live sessions when its memory is full. Set it to "noeviction".`,
      );
    }
    return /^run_id:(\w+)/m.exec(info)?.[1] ?? null;
  }
}

/** 64 random bits as 11 characters: tells our own write from another's when a reply is lost. */
function newNonce(): string {
  return withRandomBytes(8, (bytes) => bytes.toString('base64url'));
}

function created(session: NewSession, reply: readonly number[]): LoadedSession {
  const [, version = 0, createdAt = 0, lastAccess = 0, absoluteDeadline = 0, now = 0] = reply;
  const { id, userId, idleTimeout, metadata, data } = session;
  return {
    record: { id, userId, version, createdAt, lastAccess, idleTimeout, absoluteDeadline, metadata, data },
    now,
  };
}

/** What `TIME` answers, as whole epoch milliseconds. */
function milliseconds([seconds, micros]: readonly (number | string)[]): number {
  return Number(seconds) * 1000 + Math.floor(Number(micros) / 1000);
}

/** An entry of an index by activity; `id` is what a cursor names it by. */
interface Place extends ListPosition {
  readonly partition: number;
  readonly member: string;
}

type LimitedReply =
  | [1, number, number, number, number, number, string[]]
  | [0]
  | [2, string[], string[]]
  | [3, number, string[]];

/** Metadata as a script found it in a record; empty where it cannot be read. */
function readMetadata(json: string): SessionMetadata {
  try {
    return parseMetadata(json === '' ? '{}' : json);
  } catch {
    return parseMetadata('{}');
  }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}

/** Members of the deadlines index are `<id> <encoded user>`. */
const idOfMember = (member: string): string => member.slice(0, 23);
const userOfMember = (member: string): string => member.slice(24);

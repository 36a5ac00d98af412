import { Logger } from '@nestjs/common';
import type { Redis } from 'ioredis';
import { deadlineOf, type SessionRecord } from '../core/session-record.interface.js';
import {
  SessionStore,
  type Conflict,
  type CreateResult,
  type Gone,
  type LoadedSession,
  type MoveResult,
  type NewSession,
  type SessionChange,
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
import { aliasOf, encodeUserId, formatTail, formatVersion, isMoved, parseRecord } from './redis-record.js';
import { CREATE, DESTROY, GET, SET, TOUCH } from './scripts/record.lua.js';
import { MARK_MOVED, RESTORE_MOVED, ROTATE } from './scripts/move.lua.js';

/** Most records one command or script touches, so that none holds Redis up for long. */
const BATCH = 200;
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
  readonly capabilities = { versions: true, index: true, exclusive: false } as const;
  /** @internal the subscriber watches it */
  readonly connection: RedisConnection;
  /** Null unless the end of a session waits for replicas. */
  readonly #barrier: ReplicaBarrier | null;
  readonly #logger = new Logger('SessionModule');
  readonly #keys: RedisKeys;
  readonly #origin: string;
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
    await Promise.all([this.connection.close(), this.#barrier?.connection.close()]);
  }

  /** Name of the channel on which this store announces changes. */
  get channel(): string {
    return this.#keys.channel;
  }

  async create(session: NewSession): Promise<CreateResult> {
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
    const { base } = change;
    const { keys } = this.#keysOf(base.id, base.userId);
    const { value, uncertain } = await this.connection.run('save a session', true, SET, keys, [
      formatVersion(base.version),
      newNonce(),
      change.keepExpiry ? '1' : '0',
      base.id,
      formatTail({ ...base, data: change.data }),
      this.#keys.channel,
      this.#origin,
    ]);
    const reply = value as [1, number, number, number] | [0, string, number] | [-1];
    if (reply[0] !== 1) return this.#refused(base.id, reply, uncertain);
    const [, version, lastAccess, now] = reply;
    return { status: 'written', record: { ...base, version, lastAccess, data: change.data }, now };
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
      if (reply[0] === 1) return { version: reply[1], lastAccess: reply[2], now: reply[3] };
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

  async destroyMany(ids: readonly string[], userId: string): Promise<readonly string[]> {
    const partition = partitionOfUser(userId, this.#keys.partitions);
    const user = encodeUserId(userId);
    const all: Destroyed = { ended: [], servers: new Set([this.connection.server]) };
    for (let start = 0; start < ids.length; start += BATCH) {
      const batch = ids.slice(start, start + BATCH);
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
    let count = 0;
    for (let partition = 0; partition < this.#keys.partitions; partition++)
      count += await this.#countPartition(partition);
    return count;
  }

  async clear(): Promise<void> {
    for (let partition = 0; partition < this.#keys.partitions; partition++) {
      for (;;) {
        const members = await this.connection.read('clear sessions', (client) =>
          client.zrange(this.#keys.deadlines(partition), '0', String(BATCH - 1)),
        );
        if (members.length === 0) break;
        await this.#destroyBatch(partition, members.map(idOfMember), members.map(userOfMember));
      }
    }
  }

  async userSessions(userId: string): Promise<{ records: SessionRecord[]; now: number }> {
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
        if (listed.records.length < unread.length && tries < MAX_LISTINGS) continue;
      }
      return { records: ids.flatMap((id) => found.get(id) ?? []), now };
    }
  }

  // --- moving ---------------------------------------------------------------------------------------------------

  async #rotate(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const partition = this.#partition(base.id);
    const user = encodeUserId(base.userId);
    const keys = [this.#keys.record(partition, base.id), ...this.#keysFor(next.id, user)];
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
    return { status: 'moved', ...created(next, reply) };
  }

  /**
   * Two slots, so two steps: mark the old session as moved (it counts as absent from then on), create the new one.
   * If that fails for certain, the old one is put back while its mark stands; if it may have worked, it is not:
   * a crash or a lost reply may cost the login, never leave two usable tokens.
   */
  async #moveAcross(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const old = this.#keysOf(base.id, base.userId);
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
      if (result.status === 'created') return { status: 'moved', record: result.record, now: result.now };
      throw new SessionStoreUnavailableError('regenerate a session', 'the new id was taken', false);
    } catch (error) {
      if (error instanceof SessionStoreUnavailableError && error.outcomeUnknown) throw error;
      const restored = await this.connection
        .run('restore a session', true, RESTORE_MOVED, old.keys, [
          nonce,
          base.id,
          old.user,
          this.#keys.channel,
          this.#origin,
        ])
        .catch(() => null);
      if (restored?.value === 1) throw error;
      throw new SessionStoreUnavailableError(
        'regenerate a session',
        'the new one could not be made, nor the old one be kept',
        true,
        { cause: error },
      );
    }
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
    const deadlines = this.#keys.deadlines(partition);
    const { value, uncertain, server } = await this.connection.run(
      'end a session',
      true,
      DESTROY,
      [
        deadlines,
        ...ids.map((id) => this.#keys.record(partition, id)),
        ...users.map((user) => (user === '' ? deadlines : this.#keys.user(partition, user))),
      ],
      [this.#keys.channel, this.#origin, ...ids, ...users],
    );
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

/** Members of the deadlines index are `<id> <encoded user>`. */
const idOfMember = (member: string): string => member.slice(0, 23);
const userOfMember = (member: string): string => member.slice(24);

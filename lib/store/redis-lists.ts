import { setTimeout as delay } from 'node:timers/promises';
import type { SessionRecord } from '../core/session-record.interface.js';
import {
  comesAfter,
  type ListPage,
  type ListPosition,
  type ListQuery,
  type UserSessions,
} from '../core/session-store.js';
import { partitionOfUser } from '../core/session-token.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import type { ActivityIndex } from './activity-index.js';
import { idOfMember, withoutIndex, withoutUsers, type RedisKeys } from './redis-keys.js';
import { milliseconds, type RedisLinks } from './redis-links.js';
import { decodeUserId, encodeUserId } from './redis-record.js';
import { READ_BATCH, type RedisRecords } from './redis-records.js';

/** How often a user's list is read again because it changed meanwhile. */
const MAX_LISTINGS = 100;

/** An entry of an index by activity; `id` is its member, and what a cursor names it by: a session, or an encoded user. */
interface Place extends ListPosition {
  readonly partition: number;
}

/** Goes through the indexes, and the records they lead to, in bounded parts. */
export class RedisLists {
  constructor(
    private readonly connection: RedisLinks,
    private readonly keys: RedisKeys,
    private readonly records: RedisRecords,
    private readonly activity: ActivityIndex,
  ) {}

  async *all(): AsyncGenerator<SessionRecord> {
    this.#needDeadlines();
    for (let partition = 0; partition < this.keys.partitions; partition++) {
      const seen = new Set<string>(); // ZSCAN may repeat a member
      let cursor = '0';
      do {
        const [next, flat] = await this.connection.read(partition, 'list sessions', (client) =>
          client.zscan(this.keys.deadlines(partition), cursor, 'COUNT', READ_BATCH),
        );
        cursor = next;
        const ids = flat
          .filter((_, index) => index % 2 === 0)
          .map(idOfMember)
          .filter((id) => !seen.has(id));
        for (const id of ids) seen.add(id);
        yield* (await this.records.readMany(partition, ids)).records;
      } while (cursor !== '0');
    }
  }

  async length(): Promise<number> {
    this.#needDeadlines();
    return sum(await Promise.all(this.keys.eachPartition((partition) => this.#countPartition(partition))));
  }

  async now(): Promise<number> {
    return this.#time(0);
  }

  async countActive(since: number): Promise<number> {
    this.#needActivity();
    await this.activity.flush();
    const counts = await Promise.all(
      this.keys.eachPartition((partition) =>
        this.connection.read(partition, 'count sessions', (client) =>
          client.zcount(this.keys.activity(partition), since, '+inf'),
        ),
      ),
    );
    return sum(counts) - (await this.#countExpired(since));
  }

  async list(query: ListQuery): Promise<ListPage<SessionRecord>> {
    return this.#listBy(query, 'activity', async (places) => {
      const records = await this.records.readPlaces(places.map(({ partition, id }) => [partition, id]));
      return places.map(({ id }) => records.get(id));
    });
  }

  async listUsers({ after, ...query }: ListQuery): Promise<ListPage<ListPosition>> {
    if (!this.keys.keepsUsers) throw withoutUsers(this.keys);
    // Places of the index have users encoded, and are in that order.
    const from = after && { ...after, id: encodeUserId(after.id) };
    const page = await this.#listUsers({ ...query, after: from });
    const { next } = page;
    return { ...page, next: next && { ...next, id: decodeUserId(next.id) ?? '' } };
  }

  async userSessions(userId: string): Promise<UserSessions> {
    if (!this.keys.keepsUsers) throw withoutUsers(this.keys);
    const partition = partitionOfUser(userId, this.keys.partitions);
    const key = this.keys.user(partition, encodeUserId(userId));
    const found = new Map<string, SessionRecord>();
    const moving = new Map<string, SessionRecord>();
    const read = new Set<string>();
    let now = 0;
    for (let tries = 1; ; tries++) {
      const ids = await this.connection.read(partition, "list a user's sessions", (client) =>
        client.zrevrange(key, 0, -1),
      );
      const unread = ids.filter((id) => !read.has(id));
      if (unread.length > 0 || tries === 1) {
        const listed = await this.records.readMany(partition, unread);
        for (const id of unread) read.add(id);
        for (const record of listed.records) found.set(record.id, record);
        for (const record of listed.moving) moving.set(record.id, record);
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
      const those = (map: Map<string, SessionRecord>) => ids.flatMap((id) => map.get(id) ?? []);
      return { records: those(found), moving: those(moving), now };
    }
  }

  /**
   * Some of a user's sessions that have expired unswept, of those behind the `offset` least recently used. Only such are
   * read whose time, as their index has it, is up.
   */
  async expiredAfter(user: string, partition: number, offset: number): Promise<readonly string[]> {
    const deadlines = this.keys.deadlines(partition);
    const now = await this.#time(partition);
    const due = await this.connection.read(partition, 'count sessions', (client) =>
      client.zcount(deadlines, '-inf', now),
    );
    const expired: string[] = [];
    for (let start = offset; due > 0 && expired.length < READ_BATCH; start += READ_BATCH) {
      const ids = await this.connection.read(partition, "list a user's sessions", (client) =>
        client.zrange(this.keys.user(partition, user), String(start), String(start + READ_BATCH - 1)),
      );
      if (ids.length === 0) break;
      const scores = await this.connection.read(partition, "list a user's sessions", (client) =>
        client.zmscore(deadlines, ...ids.map((id) => `${id} ${user}`)),
      );
      const suspects = ids.filter((_, index) => Number(scores[index] ?? 0) <= now);
      if (suspects.length === 0) continue;
      const { records, moving } = await this.records.readMany(partition, suspects);
      const alive = new Set([...records, ...moving].map(({ id }) => id));
      expired.push(...suspects.filter((id) => !alive.has(id)));
    }
    return expired.slice(0, READ_BATCH);
  }

  /** @throws {SessionOptionsError} */
  #needDeadlines(): void {
    if (!this.keys.keepsDeadlines) throw withoutIndex('index', 'sessions cannot be listed or counted');
  }

  /** @throws {SessionOptionsError} */
  #needActivity(): void {
    this.#needDeadlines();
    if (!this.keys.keepsActivity)
      throw withoutIndex(
        'index.activity',
        'nothing can be listed or counted by activity: sessions() and users() of the registry go through all',
      );
  }

  #listUsers(query: ListQuery): Promise<ListPage<ListPosition>> {
    return this.#listBy(query, 'users', async (places) => {
      // Their sessions may have expired and not been swept yet: nearly always the newest one tells.
      const ids = await this.#newestSessions(places);
      const live = await this.records.readPlaces(
        places.flatMap(({ partition }, index) => (ids[index] === undefined ? [] : [[partition, ids[index]]])),
      );
      return Promise.all(
        places.map(async ({ id: user, lastAccess }, index) => {
          const id = decodeUserId(user) ?? '';
          const isLive = live.has(ids[index] ?? '') || (await this.userSessions(id)).records.length > 0;
          return isLive ? { id, lastAccess } : undefined;
        }),
      );
    });
  }

  /** The most recently used session of each user, expired or not; undefined where there is none. */
  async #newestSessions(places: readonly Place[]): Promise<readonly (string | undefined)[]> {
    const ids: (string | undefined)[] = [];
    const partitions = new Set(places.map(({ partition }) => partition));
    await Promise.all(
      [...partitions].map(async (partition) => {
        const at = [...places.keys()].filter((index) => places[index]!.partition === partition);
        const newest = await this.connection.read(partition, 'list users', (client) =>
          Promise.all(
            at.map((index) => client.zrevrange(this.keys.user(partition, places[index]!.id), 0, 0)),
          ),
        );
        for (const [nth, index] of at.entries()) ids[index] = newest[nth]![0];
      }),
    );
    return ids;
  }

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
    this.#needActivity();
    await this.activity.flush();
    const entries: E[] = [];
    let count = Math.ceil((limit + 1) / this.keys.partitions) * 2 + 2;
    for (let position = after; ;) {
      const from = position;
      const size = count;
      const parts = await Promise.all(
        this.keys.eachPartition((partition) => this.#placesAfter(partition, index, from, activeSince, size)),
      );
      const places = parts.flat().sort((a, b) => (comesAfter(a, b) ? 1 : -1));
      const ends = parts.flatMap((part) => (part.length < size ? [] : part.slice(-1)));
      const known = places.filter((place) => !ends.some((end) => comesAfter(place, end)));
      let looked = 0;
      for (let step = limit; looked < known.length && entries.length < limit; step *= 2) {
        const found = await load(known.slice(looked, looked + step));
        for (const entry of found) {
          if (entries.length === limit) break;
          looked++;
          if (entry !== undefined) entries.push(entry);
        }
      }
      const last = known[looked - 1];
      if (last !== undefined) position = { lastAccess: last.lastAccess, id: last.id };
      const isEnd = ends.length === 0 && looked === places.length;
      if (isEnd || entries.length === limit)
        return { entries, next: isEnd ? null : position!, now: await this.now() };
      count = Math.min(count * 2, READ_BATCH); // many have expired and were not swept yet
    }
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
      const flat = await this.connection.read(partition, 'list by activity', (client) =>
        client.zrevrangebyscore(
          this.keys[index](partition),
          after?.lastAccess ?? '+inf',
          activeSince ?? '-inf',
          'WITHSCORES',
          'LIMIT',
          offset,
          count,
        ),
      );
      for (let at = 0; at < flat.length; at += 2) {
        // Ordered, and named by cursors, as Redis orders them: a user by the encoded id.
        const place = { partition, id: flat[at]!, lastAccess: Number(flat[at + 1]) };
        if (after === undefined || comesAfter(place, after)) places.push(place);
      }
      if (flat.length < count * 2) break;
    }
    return places.slice(0, count);
  }

  /** The clock of the partition's master, in epoch milliseconds. */
  async #time(partition: number): Promise<number> {
    return milliseconds(await this.connection.read(partition, 'read the clock', (client) => client.time()));
  }

  /** Scores are deadlines as of the last create: what they call due may have been touched since, and is looked at. */
  async #countPartition(partition: number): Promise<number> {
    const key = this.keys.deadlines(partition);
    const now = await this.#time(partition);
    let count = await this.connection.read(partition, 'count sessions', (client) =>
      client.zcount(key, `(${now}`, '+inf'),
    );
    for (let offset = 0; ; offset += READ_BATCH) {
      const due = await this.connection.read(partition, 'count sessions', (client) =>
        client.zrangebyscore(key, '-inf', String(now), 'LIMIT', offset, READ_BATCH),
      );
      count += (await this.records.readMany(partition, due.map(idOfMember))).records.length;
      if (due.length < READ_BATCH) return count;
    }
  }

  /** What has expired and was not swept yet, of what was active since then. */
  async #countExpired(since: number): Promise<number> {
    const counts = this.keys.eachPartition(async (partition) => {
      const now = await this.#time(partition);
      let count = 0;
      for (let offset = 0; ; offset += READ_BATCH) {
        const due = await this.connection.read(partition, 'count sessions', (client) =>
          client.zrangebyscore(
            this.keys.deadlines(partition),
            '-inf',
            String(now),
            'LIMIT',
            offset,
            READ_BATCH,
          ),
        );
        if (due.length === 0) return count;
        const live = new Set(
          (await this.records.readMany(partition, due.map(idOfMember))).records.map(({ id }) => id),
        );
        const scores = await this.connection.read(partition, 'count sessions', (client) =>
          client.zmscore(this.keys.activity(partition), ...due.map(idOfMember)),
        );
        count += due.filter(
          (member, i) =>
            !live.has(idOfMember(member)) &&
            scores[i] !== null &&
            scores[i] !== undefined &&
            Number(scores[i]) >= since,
        ).length;
        if (due.length < READ_BATCH) return count;
      }
    });
    return sum(await Promise.all(counts));
  }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}

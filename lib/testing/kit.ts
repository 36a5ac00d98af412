// What the tests of the suite, and a store's own, make and look at sessions with.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import {
  newSessionId,
  type ListPage,
  type ListPosition,
  type ListQuery,
  type LoadedSession,
  type NewSession,
  type SessionChange,
  type SessionRecord,
  type SessionStore,
} from '../index.js';
import type { OpenedStore } from './suite.js';

/**
 * Partitions of the ids that the suite makes: the default of the option `partitions`. A store that wants to know must be
 * opened with as many.
 */
export const SUITE_PARTITIONS = 16;

export const MINUTE = 60_000;
export const DAY = 86_400_000;

/** A new id in the partition of the user, or in `partition` for nobody. */
export function newId(userId: string | null, partition = 3): string {
  if (userId !== null) return newSessionId(userId, SUITE_PARTITIONS);
  return Buffer.from([partition, ...randomBytes(16)]).toString('base64url');
}

/** The partition all of a user's ids are in. */
export function partitionOf(userId: string): number {
  return Buffer.from(newId(userId), 'base64url')[0]!;
}

/** Users of one partition whose names do not sort as they do where they are encoded for a key. */
export const SAME_PARTITION = Array.from(
  { length: 500 },
  (_, i) => `${['z', 'é', '%', 'A', '漢'][i % 5]}${i}`,
)
  .filter((user) => partitionOf(user) === partitionOf('ann'))
  .slice(0, 20);

/**
 * A session to create; anonymous, half an hour and a day, unless told otherwise.
 *
 * @publicApi
 */
export function newSession(parts: Partial<NewSession> = {}): NewSession {
  const userId = parts.userId ?? null;
  return {
    id: newId(userId),
    userId,
    idleTimeout: 30 * MINUTE,
    absoluteTimeout: DAY,
    metadata: { ip: '192.0.2.1', userAgent: 'Suite/1.0 (ä; "x")' },
    data: '{"n":0}',
    ...parts,
  };
}

/** Creates a session that cannot be taken. */
export async function mustCreate(
  store: SessionStore,
  parts: Partial<NewSession> = {},
): Promise<LoadedSession> {
  const result = await store.create(newSession(parts));
  assert.equal(result.status, 'created');
  return result as LoadedSession;
}

/** The live record, which must be there. */
export async function mustGet(store: SessionStore, id: string): Promise<SessionRecord> {
  const loaded = await store.get(id);
  assert.notEqual(loaded, null, `session ${id} is absent`);
  return loaded!.record;
}

/** Resolves once `ms` have passed on the store's clock. */
export async function passTime(
  { store, advance }: Pick<OpenedStore, 'store' | 'advance'>,
  ms: number,
): Promise<void> {
  if (advance !== undefined) return advance(ms);
  const until = (await store.now()) + ms;
  const passed = async () => assert.ok((await store.now()) >= until, `${ms} ms of the store's clock`);
  await eventually(passed, ms + 10_000);
}

/** Repeats `check` until it throws no more; after `withinMs` milliseconds its last error is thrown. */
export async function eventually(check: () => Promise<void>, withinMs: number): Promise<void> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await delay(5);
    }
  }
}

/** A change of what was read. */
export function edit(base: SessionRecord, data: string, keepExpiry = false): SessionChange {
  return { base, data, keepExpiry };
}

export const idsOf = (records: readonly { id: string }[]): string[] => records.map(({ id }) => id);
export const sorted = (texts: Iterable<string>): string[] => [...texts].sort();

/** The order of lists: most recently active first, of one millisecond the greatest id. */
export const byActivity = (a: ListPosition, b: ListPosition): number =>
  b.lastAccess - a.lastAccess || (a.id < b.id ? 1 : a.id > b.id ? -1 : 0);

/** A whole list, read part by part; none but the last part may be shorter than asked for. */
export async function inParts<E>(
  part: (query: ListQuery) => Promise<ListPage<E>>,
  limit: number,
): Promise<E[]> {
  const found: E[] = [];
  let after: ListPosition | undefined;
  for (let parts = 0; parts < 1_000; parts++) {
    const { entries, next } = await part({ after, limit });
    assert.ok(entries.length <= limit, `${entries.length} entries of ${limit}`);
    found.push(...entries);
    if (next === null) return found;
    assert.equal(entries.length, limit, 'a part before the last one is short');
    after = next;
  }
  throw new Error('the list has no end');
}

export async function listAll(store: SessionStore): Promise<SessionRecord[]> {
  const records: SessionRecord[] = [];
  for await (const record of store.all()) records.push(record);
  return records;
}

/** Checks the user's list, its order too, where the store has one. */
export async function expectSessionsOf(
  store: SessionStore,
  userId: string,
  ids: readonly string[],
): Promise<void> {
  if (store.capabilities.index !== true) return;
  assert.deepEqual(idsOf((await store.userSessions(userId)).records), ids);
}

/** `destroyMany` where the store has it. */
export async function destroyEach(
  store: SessionStore,
  ids: readonly string[],
  userId: string,
): Promise<readonly string[]> {
  if (store.capabilities.index === true) return store.destroyMany(ids, userId);
  const ended: string[] = [];
  for (const id of ids) if (await store.destroy(id)) ended.push(id);
  return ended;
}

/** Has the store remove what has expired, as the module does now and then. */
export const sweep = (store: SessionStore): Promise<void> =>
  store.sweep(
    () => undefined,
    1_000,
    () => false,
  );

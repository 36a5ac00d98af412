// The contract of SessionStore as tests: every store must pass them. Needs no test runner of its own.
import assert from 'node:assert/strict';
import { generateToken, identifyToken, partitionOfUser } from '../../lib/core/session-token.js';
import type { SessionRecord } from '../../lib/core/session-record.interface.js';
import type {
  ListPage,
  ListPosition,
  ListQuery,
  LoadedSession,
  NewSession,
  SessionStore,
} from '../../lib/core/session-store.js';
import { waitFor } from './wait-for.js';

/** What the suite needs of a test runner; vitest, jest, mocha and node:test have it. */
export interface SuiteRunner {
  readonly describe: (name: string, body: () => void) => unknown;
  readonly it: (name: string, body: () => Promise<void>) => unknown;
}

/** A store with nothing in it, for one test. */
export interface OpenedStore {
  readonly store: SessionStore;
  /** Another store over the same sessions, as a second process would have it; default `store` itself. */
  readonly peer?: SessionStore;
  /** Moves the store's clock; without it, the suite waits until the store's clock has moved by itself. */
  readonly advance?: (ms: number) => void;
  close(): Promise<void>;
}

/** Partitions that every store under test must be opened with. */
export const SUITE_PARTITIONS = 16;

const MINUTE = 60_000;
const DAY = 86_400_000;

/** UserIds that must come back as they went in. */
export const ODD_USER_IDS = [
  'ann',
  'Ann Ö. Smith',
  ' leading and trailing ',
  '{0}:s:{x}',
  '100%',
  '%41%zz',
  'a:b:c',
  '用户-😀-👩‍👩‍👧',
  '__proto__',
  "it's (a) *test*!~",
  'line\nbreak\ttab\0nul',
  'x'.repeat(255),
  '😀'.repeat(127),
];

/** Encoded data that must come back as it went in. */
export const ODD_DATA = [
  '{}',
  '{"a":"line\\nbreak"}',
  'raw\nnew\r\nlines\n\n',
  '\n',
  'nul \0 in the middle',
  'pair 😀 and umlaut ä and 漢字',
  '1 0000000000000001 looks like a header',
  'M looks like a mark',
  '',
  JSON.stringify({ lone: '\ud800' }),
  JSON.stringify({ big: 'ä'.repeat(100_000) }),
];

/** A new id in the partition of the user, or in `partition` for nobody. */
export function newId(userId: string | null, partition = 3): string {
  const home = userId === null ? partition : partitionOfUser(userId, SUITE_PARTITIONS);
  return identifyToken(generateToken(home), SUITE_PARTITIONS, false)!.id;
}

/** A session to create; anonymous, half an hour and a day, unless told otherwise. */
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

/** Resolves once `ms` have passed on the store's clock, which a session without end is asked for. */
export async function passTime(
  { store, advance }: Pick<OpenedStore, 'store' | 'advance'>,
  ms: number,
): Promise<void> {
  if (advance !== undefined) return advance(ms);
  const { record, now } = await mustCreate(store, { idleTimeout: 0, absoluteTimeout: 0 });
  const passed = async () => ((await store.get(record.id))?.now ?? 0) >= now + ms;
  await waitFor(passed, { timeoutMs: ms + 5_000, intervalMs: 5, message: `${ms} ms of the store's clock` });
  await store.destroy(record.id);
}

const edit = (base: SessionRecord, data: string, keepExpiry = false) => ({ base, data, keepExpiry });
const idsOf = (records: readonly { id: string }[]) => records.map(({ id }) => id);
const sorted = (texts: Iterable<string>) => [...texts].sort();

/** The order of lists: most recently active first, of one millisecond the greatest id. */
const byActivity = (a: ListPosition, b: ListPosition) =>
  b.lastAccess - a.lastAccess || (a.id < b.id ? 1 : a.id > b.id ? -1 : 0);

/** Users of one partition whose names do not sort as they do where they are encoded for a key. */
const SAME_PARTITION = Array.from({ length: 500 }, (_, i) => `${['z', 'é', '%', 'A', '漢'][i % 5]}${i}`)
  .filter((user) => partitionOfUser(user, SUITE_PARTITIONS) === partitionOfUser('ann', SUITE_PARTITIONS))
  .slice(0, 20);

/** A whole list, read part by part; none but the last part may be shorter than asked for. */
async function inParts<E>(part: (query: ListQuery) => Promise<ListPage<E>>, limit: number): Promise<E[]> {
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

async function listAll(store: SessionStore): Promise<SessionRecord[]> {
  const records: SessionRecord[] = [];
  for await (const record of store.all()) records.push(record);
  return records;
}

/**
 * Declares the suite.
 *
 * @param openStore makes an empty store (with {@link SUITE_PARTITIONS} partitions); called once per test
 */
export function describeSessionStore(
  { describe, it }: SuiteRunner,
  name: string,
  openStore: () => Promise<OpenedStore>,
): void {
  const test = (
    title: string,
    body: (opened: Required<Pick<OpenedStore, 'peer'>> & OpenedStore) => unknown,
  ) =>
    it(title, async () => {
      const opened = await openStore();
      try {
        await body({ ...opened, peer: opened.peer ?? opened.store });
      } finally {
        await opened.close();
      }
    });

  describe(`SessionStore contract: ${name}`, () => {
    describe('create and get', () => {
      test('create() stores what it was given, and get() returns the same record', async ({
        store,
        peer,
      }) => {
        const wanted = newSession({ userId: 'ann', metadata: { label: 'Läptop' }, data: '{"a":1}' });
        const created = await store.create(wanted);
        assert.equal(created.status, 'created');
        const { record, now } = created as LoadedSession;
        assert.deepEqual(record, {
          id: wanted.id,
          userId: 'ann',
          version: record.version,
          createdAt: now,
          lastAccess: now,
          idleTimeout: wanted.idleTimeout,
          absoluteDeadline: now + wanted.absoluteTimeout,
          metadata: { label: 'Läptop' },
          data: '{"a":1}',
        });
        assert.ok(Number.isSafeInteger(record.version) && record.version > 0);
        assert.deepEqual((await peer.get(wanted.id))!.record, record);
      });

      test('create() of a live id is taken and changes nothing', async ({ store, peer }) => {
        const { record } = await mustCreate(store, { data: 'first' });
        assert.deepEqual(await peer.create(newSession({ id: record.id, data: 'second' })), {
          status: 'taken',
        });
        assert.deepEqual(await mustGet(store, record.id), record);
      });

      test('of ten parallel create() of one id exactly one is created', async ({ store, peer }) => {
        const id = newId(null);
        const results = await Promise.all(
          Array.from({ length: 10 }, (_, i) =>
            (i % 2 === 0 ? store : peer).create(newSession({ id, data: `{"by":${i}}` })),
          ),
        );
        const winners = results.flatMap((result, i) => (result.status === 'created' ? [i] : []));
        assert.equal(winners.length, 1);
        assert.equal((await mustGet(store, id)).data, `{"by":${winners[0]}}`);
      });

      test('create() after destroy() makes a new session with a higher version', async ({ store }) => {
        const first = await mustCreate(store, { userId: 'ann', data: 'old' });
        await store.destroy(first.record.id);
        const second = await mustCreate(store, { id: first.record.id, userId: 'ann', data: 'new' });
        assert.ok(second.record.version > first.record.version);
        assert.equal((await mustGet(store, first.record.id)).data, 'new');
        assert.deepEqual(idsOf((await store.userSessions('ann')).records), [first.record.id]);
        assert.equal(await store.length(), 1);
      });

      test('create() of an expired id succeeds with a higher version', async (opened) => {
        const { store } = opened;
        const first = await mustCreate(store, { idleTimeout: 40, data: 'old' });
        await passTime(opened, 41);
        const second = await mustCreate(store, { id: first.record.id, data: 'new' });
        assert.ok(second.record.version > first.record.version);
        assert.equal(await store.length(), 1);
        assert.equal((await listAll(store)).length, 1);
      });

      test('get() returns null for an id nobody created', async ({ store }) => {
        assert.equal(await store.get(newId(null)), null);
      });
    });

    describe('set', () => {
      test('set() on the current record replaces data only, with a higher version', async (opened) => {
        const { store, peer } = opened;
        const { record } = await mustCreate(store, { userId: 'ann' });
        await passTime(opened, 5);
        const result = await store.set(edit(record, '{"n":1}'));
        assert.equal(result.status, 'written');
        const { record: written, now } = result as LoadedSession;
        assert.ok(written.version > record.version);
        assert.ok(now >= record.createdAt + 5);
        assert.deepEqual(written, { ...record, data: '{"n":1}', version: written.version, lastAccess: now });
        assert.deepEqual(await mustGet(peer, record.id), written);
      });

      test('set() on a superseded record is a conflict that carries the current one and writes nothing', async ({
        store,
        peer,
      }) => {
        const { record } = await mustCreate(store);
        await peer.set(edit(record, 'theirs'));
        const current = await mustGet(peer, record.id);
        const result = await store.set(edit(record, 'ours'));
        assert.equal(result.status, 'conflict');
        assert.deepEqual('record' in result && result.record, current);
        assert.equal('uncertain' in result && result.uncertain, false);
        assert.deepEqual(await mustGet(store, record.id), current);
      });

      test('set() after destroy() is gone and writes nothing', async ({ store, peer }) => {
        const { record } = await mustCreate(store, { userId: 'ann' });
        await peer.destroy(record.id);
        assert.deepEqual(await store.set(edit(record, 'back')), { status: 'gone' });
        assert.equal(await store.get(record.id), null);
        assert.deepEqual((await store.userSessions('ann')).records, []);
      });

      test('set() with the record of an earlier life of the id is a conflict', async ({ store }) => {
        const { record } = await mustCreate(store);
        await store.destroy(record.id);
        await mustCreate(store, { id: record.id, data: 'second life' });
        const result = await store.set(edit(record, 'from the first life'));
        assert.equal(result.status, 'conflict');
        assert.equal((await mustGet(store, record.id)).data, 'second life');
      });

      test('set() with keepExpiry leaves lastAccess alone, without it sets it to now', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store, { userId: 'ann' });
        await passTime(opened, 10);
        const kept = (await store.set(edit(record, 'a', true))) as LoadedSession;
        assert.equal(kept.record.lastAccess, record.lastAccess);
        assert.deepEqual(await mustGet(store, record.id), kept.record);
        const moved = (await store.set(edit(kept.record, 'b'))) as LoadedSession;
        assert.equal(moved.record.lastAccess, moved.now);
        assert.ok(moved.now >= record.lastAccess + 10);
      });

      test('set() with keepExpiry does not keep an idle session alive', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store, { idleTimeout: 60 });
        await passTime(opened, 20);
        const kept = (await store.set(edit(record, 'a', true))) as LoadedSession;
        assert.equal(kept.record.data, 'a');
        await passTime(opened, 41);
        assert.equal(await store.get(record.id), null);
      });
    });

    describe('touch', () => {
      test('touch() sooner than minInterval changes nothing and tells the time it left', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store);
        await passTime(opened, 5);
        const touched = await store.touch(record.id, 10_000);
        assert.equal(touched?.lastAccess, record.lastAccess);
        assert.ok(touched.now >= record.lastAccess + 5);
        assert.deepEqual(await mustGet(store, record.id), record);
      });

      test('touch() after minInterval sets lastAccess and nothing else', async (opened) => {
        const { store, peer } = opened;
        const { record } = await mustCreate(store, { userId: 'ann' });
        await passTime(opened, 20);
        const touched = await store.touch(record.id, 20, { userId: 'ann' });
        assert.equal(touched?.version, record.version);
        assert.equal(touched.lastAccess, touched.now);
        assert.ok(touched.now >= record.lastAccess + 20);
        assert.deepEqual(await mustGet(peer, record.id), { ...record, lastAccess: touched.lastAccess });
      });

      test('touch() needs no hint and survives a wrong one', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store, { userId: 'Ann Ö{1}' });
        for (const hint of [undefined, { userId: null }, { userId: 'someone else' }]) {
          await passTime(opened, 2);
          const touched = await store.touch(record.id, 0, hint);
          assert.equal(touched?.lastAccess, touched?.now);
          assert.equal((await mustGet(store, record.id)).lastAccess, touched?.now);
        }
        assert.deepEqual(idsOf((await store.userSessions('Ann Ö{1}')).records), [record.id]);
        assert.deepEqual((await store.userSessions('someone else')).records, []);
      });

      test('touch() keeps a session alive past its idle timeout, never past its absolute deadline', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store, { idleTimeout: 120, absoluteTimeout: 300 });
        let last = record.lastAccess;
        for (;;) {
          await passTime(opened, 30);
          const touched = await store.touch(record.id, 0);
          if (touched === null) break;
          assert.ok(touched.now < record.absoluteDeadline, 'touched after the absolute deadline');
          last = touched.lastAccess;
          const loaded = await store.get(record.id);
          if (loaded === null) break; // the absolute deadline passed between both calls
          assert.equal(loaded.record.absoluteDeadline, record.absoluteDeadline);
        }
        assert.ok(last > record.createdAt + 120, 'no touch prolonged it');
        assert.equal(await store.get(record.id), null);
      });

      test('touch() of an unknown or ended session resolves to null and creates nothing', async ({
        store,
      }) => {
        const { record } = await mustCreate(store, { userId: 'ann' });
        await store.destroy(record.id);
        assert.equal(await store.touch(record.id, 0, { userId: 'ann' }), null);
        assert.equal(await store.touch(newId(null), 0), null);
        assert.deepEqual((await store.userSessions('ann')).records, []);
        assert.equal(await store.length(), 0);
      });
    });

    describe('destroy and destroyMany', () => {
      test('destroy() is true once, then false, and false for an unknown id', async ({ store, peer }) => {
        const { record } = await mustCreate(store, { userId: 'ann' });
        assert.equal(await store.destroy(record.id, { userId: 'ann' }), true);
        assert.equal(await peer.get(record.id), null);
        assert.equal(await peer.destroy(record.id), false);
        assert.equal(await store.destroy(newId(null)), false);
      });

      test('destroy() with no hint or a wrong one ends the session and its entry in the list', async ({
        store,
      }) => {
        for (const hint of [undefined, { userId: null }, { userId: 'someone else' }]) {
          const { record } = await mustCreate(store, { userId: 'ann' });
          assert.equal(await store.destroy(record.id, hint), true);
          assert.deepEqual((await store.userSessions('ann')).records, []);
          assert.equal(await store.length(), 0);
        }
      });

      test('destroyMany() ends the user’s sessions and tells which were live', async ({ store }) => {
        const ids: string[] = [];
        for (let i = 0; i < 4; i++) ids.push((await mustCreate(store, { userId: 'ann' })).record.id);
        const spared = await mustCreate(store, { userId: 'ann' });
        await store.destroy(ids[3]!);
        assert.deepEqual(sorted(await store.destroyMany(ids, 'ann')), sorted(ids.slice(0, 3)));
        assert.deepEqual(await store.destroyMany(ids, 'ann'), []);
        assert.deepEqual(idsOf((await store.userSessions('ann')).records), [spared.record.id]);
      });

      test('destroyMany() with unknown ids, of other partitions too and in front, still ends the others', async ({
        store,
      }) => {
        const { record } = await mustCreate(store, { userId: 'ann' });
        const elsewhere = (partitionOfUser('ann', SUITE_PARTITIONS) + 1) % SUITE_PARTITIONS;
        const ids = [newId(null, elsewhere), newId('ann'), record.id, newId('ann')];
        assert.deepEqual(await store.destroyMany(ids, 'ann'), [record.id]);
        assert.equal(await store.get(record.id), null);
      });

      test('destroyMany() of nothing resolves to nothing', async ({ store }) => {
        assert.deepEqual(await store.destroyMany([], 'ann'), []);
      });

      test('destroyMany() ends 450 sessions of one user, and userSessions() lists them all before', async ({
        store,
      }) => {
        const created = await Promise.all(
          Array.from({ length: 450 }, () => mustCreate(store, { userId: 'ann' })),
        );
        const ids = created.map(({ record }) => record.id);
        assert.deepEqual(sorted(idsOf((await store.userSessions('ann')).records)), sorted(ids));
        assert.equal((await store.destroyMany(ids, 'ann')).length, 450);
        assert.deepEqual((await store.userSessions('ann')).records, []);
        assert.equal(await store.length(), 0);
      });
    });

    describe('move', () => {
      test('move() within one user inherits createdAt and absolute deadline and ends the old id', async (opened) => {
        const { store, peer } = opened;
        const { record } = await mustCreate(store, { userId: 'ann' });
        await passTime(opened, 10);
        const next = newSession({ userId: 'ann', data: 'moved', metadata: { label: 'new' } });
        const result = await store.move(record, next);
        assert.equal(result.status, 'moved');
        const { record: moved, now } = result as LoadedSession;
        assert.deepEqual(moved, {
          ...record,
          id: next.id,
          version: moved.version,
          lastAccess: now,
          metadata: { label: 'new' },
          data: 'moved',
        });
        assert.equal(await peer.get(record.id), null);
        assert.deepEqual(await mustGet(peer, next.id), moved);
        assert.deepEqual(idsOf((await store.userSessions('ann')).records), [next.id]);
        assert.equal(await store.length(), 1);
      });

      test('move() of an anonymous session to a new anonymous id inherits as well', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store);
        await passTime(opened, 5);
        const result = (await store.move(record, newSession())) as LoadedSession;
        assert.equal(result.record.createdAt, record.createdAt);
        assert.equal(result.record.absoluteDeadline, record.absoluteDeadline);
        assert.equal(await store.get(record.id), null);
      });

      for (const userId of ['ann', null]) {
        test(`move() of ${userId ?? 'nobody'}’s session with another idle timeout keeps the rest of its times`, async (opened) => {
          const { store, peer } = opened;
          const { record } = await mustCreate(store, { userId });
          await passTime(opened, 10);
          const next = newSession({ userId, idleTimeout: 120 * MINUTE, absoluteTimeout: 30 * DAY });
          const result = (await store.move(record, next)) as LoadedSession;
          assert.equal(result.record.createdAt, record.createdAt);
          assert.equal(result.record.idleTimeout, 120 * MINUTE);
          assert.equal(result.record.absoluteDeadline, record.absoluteDeadline);
          assert.deepEqual(await mustGet(peer, next.id), result.record);
        });

        test(`move() that restarts the absolute timeout of ${userId ?? 'nobody'}’s session counts it from now, and keeps the time of creation`, async (opened) => {
          const { store, peer } = opened;
          const { record } = await mustCreate(store, { userId });
          await passTime(opened, 10);
          const timeouts = { idleTimeout: 120 * MINUTE, absoluteTimeout: 30 * DAY };
          const next = newSession({ userId, ...timeouts, restartsAbsolute: true });
          const result = (await store.move(record, next)) as LoadedSession;
          assert.equal(result.record.createdAt, record.createdAt);
          assert.equal(result.record.idleTimeout, 120 * MINUTE);
          assert.equal(result.record.absoluteDeadline, result.now + 30 * DAY);
          assert.deepEqual(await mustGet(peer, next.id), result.record);
          assert.equal(await peer.get(record.id), null);
          assert.equal(await store.length(), 1);
        });

        test(`move() that restarts an absolute timeout of 0 of ${userId ?? 'nobody'}’s session has no absolute deadline`, async ({
          store,
        }) => {
          const { record } = await mustCreate(store, { userId });
          const next = newSession({ userId, absoluteTimeout: 0, restartsAbsolute: true });
          const result = (await store.move(record, next)) as LoadedSession;
          assert.equal(result.record.absoluteDeadline, 0);
          assert.equal((await mustGet(store, next.id)).absoluteDeadline, 0);
        });
      }

      test('move() from nobody to a user starts a life of its own in the user’s list', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store);
        await passTime(opened, 10);
        const next = newSession({ userId: 'Ann {2}', data: 'mine' });
        const result = (await store.move(record, next)) as LoadedSession;
        assert.equal(result.record.createdAt, result.now);
        assert.equal(result.record.absoluteDeadline, result.now + next.absoluteTimeout);
        assert.equal(await store.get(record.id), null);
        assert.deepEqual((await store.userSessions('Ann {2}')).records, [result.record]);
        assert.equal(await store.length(), 1);
      });

      test('move() from one user to another changes both lists', async ({ store }) => {
        const { record } = await mustCreate(store, { userId: 'ann' });
        const next = newSession({ userId: 'bob', data: '{}' });
        assert.equal((await store.move(record, next)).status, 'moved');
        assert.equal(await store.get(record.id), null);
        assert.deepEqual((await store.userSessions('ann')).records, []);
        assert.deepEqual(idsOf((await store.userSessions('bob')).records), [next.id]);
      });

      test('move() from a user to nobody leaves no list behind', async ({ store }) => {
        const { record } = await mustCreate(store, { userId: 'ann' });
        const next = newSession();
        assert.equal((await store.move(record, next)).status, 'moved');
        assert.deepEqual((await store.userSessions('ann')).records, []);
        assert.equal((await mustGet(store, next.id)).userId, null);
      });

      for (const userId of ['ann', 'bob']) {
        test(`move() of a superseded record to ${userId} is a conflict, moves nothing and creates nothing`, async ({
          store,
          peer,
        }) => {
          const { record } = await mustCreate(store, { userId: 'ann' });
          await peer.set(edit(record, 'theirs'));
          const current = await mustGet(store, record.id);
          const next = newSession({ userId });
          const result = await store.move(record, next);
          assert.equal(result.status, 'conflict');
          assert.deepEqual('record' in result && result.record, current);
          assert.deepEqual(await mustGet(store, record.id), current);
          assert.equal(await store.get(next.id), null);
          assert.deepEqual(idsOf((await store.userSessions('ann')).records), [record.id]);
        });

        test(`move() of an ended session to ${userId} is gone and creates nothing`, async ({ store }) => {
          const { record } = await mustCreate(store, { userId: 'ann' });
          await store.destroy(record.id);
          const next = newSession({ userId });
          assert.deepEqual(await store.move(record, next), { status: 'gone' });
          assert.equal(await store.get(next.id), null);
          assert.equal(await store.length(), 0);
        });

        test(`move() to ${userId}: at no moment are both ids usable`, async ({ store, peer }) => {
          for (let round = 0; round < 50; round++) {
            const { record } = await mustCreate(store, { userId: 'ann' });
            const next = newSession({ userId });
            let done = false;
            const moving = store.move(record, next).finally(() => (done = true));
            do {
              // In this order: an old session seen after the new one means both at once.
              const [after, before] = await Promise.all([peer.get(next.id), peer.get(record.id)]);
              assert.ok(after === null || before === null, `both usable in round ${round}`);
            } while (!done);
            assert.equal((await moving).status, 'moved');
          }
        });
      }

      test('of five parallel move() of one record exactly one moves', async ({ store, peer }) => {
        for (let round = 0; round < 20; round++) {
          const { record } = await mustCreate(store, { userId: 'ann' });
          const nexts = Array.from({ length: 5 }, (_, i) => newSession({ userId: i % 2 ? 'ann' : 'bob' }));
          const results = await Promise.all(
            nexts.map((next, i) => (i % 3 === 0 ? peer : store).move(record, next)),
          );
          assert.equal(results.filter(({ status }) => status === 'moved').length, 1);
          const alive = await Promise.all(nexts.map(({ id }) => store.get(id)));
          assert.deepEqual(
            alive.map((loaded) => loaded !== null),
            results.map(({ status }) => status === 'moved'),
          );
        }
      });

      test('move() and set() of one record at once: the write is either moved on top of or refused', async ({
        store,
        peer,
      }) => {
        for (let round = 0; round < 100; round++) {
          const { record } = await mustCreate(store, { userId: 'ann' });
          const next = newSession({ userId: round % 2 ? 'ann' : 'bob' });
          const [moved, written] = await Promise.all([
            store.move(record, next),
            peer.set(edit(record, 'edited')),
          ]);
          const outcome = `${moved.status} ${written.status}`;
          assert.ok(outcome === 'moved gone' || outcome === 'conflict written', outcome);
          assert.equal((await store.get(record.id)) === null, moved.status === 'moved');
          assert.equal((await store.get(next.id)) === null, moved.status !== 'moved');
        }
      });
    });

    describe('move with an alias', () => {
      /** A session that was moved to a new id, and how long its old one still leads to it. */
      const rotate = async (store: SessionStore, aliasMs: number, userId: string | null = 'ann') => {
        const { record: old } = await mustCreate(store, { userId });
        const next = newSession({ userId, data: 'moved', alias: { keepMs: aliasMs, readMs: aliasMs } });
        const result = await store.move(old, next);
        assert.equal(result.status, 'moved');
        return { old, next, moved: (result as LoadedSession).record };
      };

      test('successorOf() tells of it for longer than reads follow it, and of no other id', async (opened) => {
        const { store, peer } = opened;
        const { record: old } = await mustCreate(store, { userId: 'ann' });
        const next = newSession({ userId: 'ann', alias: { keepMs: MINUTE, readMs: 0 } });
        assert.equal((await store.move(old, next)).status, 'moved');
        assert.equal(await peer.get(old.id), null);
        assert.equal((await peer.successorOf(old.id))?.id, next.id);
        assert.equal(await peer.successorOf(next.id), null);
        assert.equal(await peer.destroy(old.id), false);
        assert.equal((await peer.successorOf(old.id))?.id, next.id);
        await store.destroy(next.id);
        assert.equal(await peer.successorOf(old.id), null);
      });

      for (const userId of ['ann', null]) {
        test(`get() of the old id of ${userId ?? 'nobody'}’s session gives the record of the new one, as it is by then`, async ({
          store,
          peer,
        }) => {
          const { old, next, moved } = await rotate(store, MINUTE, userId);
          assert.equal(moved.id, next.id);
          assert.equal('alias' in moved, false);
          assert.equal(moved.createdAt, old.createdAt);
          assert.equal(moved.absoluteDeadline, old.absoluteDeadline);
          for (const one of [store, peer]) assert.deepEqual(await mustGet(one, old.id), moved);
          const written = (await peer.set(edit(moved, 'later'))) as LoadedSession;
          for (const one of [store, peer]) assert.deepEqual(await mustGet(one, old.id), written.record);
        });
      }

      test('get() of the old id is null once aliasMs have passed, whatever was done meanwhile, and the new id lives on', async (opened) => {
        const { store, peer } = opened;
        const { old, next, moved } = await rotate(store, 150);
        await passTime(opened, 75);
        // None of these begins the time anew.
        await store.touch(next.id, 0, { userId: 'ann' });
        await peer.set(edit(moved, 'later'));
        await store.touch(old.id, 0, { userId: 'ann' });
        await peer.get(old.id);
        await passTime(opened, 76);
        for (const one of [store, peer]) assert.equal(await one.get(old.id), null);
        assert.equal((await mustGet(store, next.id)).data, 'later');
      });

      test('set(), touch(), move() and destroy() of the old id are refused and do not reach the new one', async (opened) => {
        const { store } = opened;
        const { old, next, moved } = await rotate(store, MINUTE);
        await passTime(opened, 5);
        assert.deepEqual(await store.set(edit(old, 'through')), { status: 'gone' });
        assert.deepEqual(await store.set(edit({ ...moved, id: old.id }, 'through')), { status: 'gone' });
        assert.equal(await store.touch(old.id, 0, { userId: 'ann' }), null);
        assert.equal(await store.touch(old.id, 0), null);
        for (const userId of ['ann', 'bob']) {
          const third = newSession({ userId, alias: { keepMs: MINUTE, readMs: MINUTE } });
          assert.deepEqual(await store.move(old, third), { status: 'gone' });
          assert.equal(await store.get(third.id), null);
        }
        assert.equal(await store.destroy(old.id, { userId: 'ann' }), false);
        assert.deepEqual(await store.destroyMany([old.id], 'ann'), []);
        assert.deepEqual(await mustGet(store, next.id), moved);
      });

      test('the old id is in no list and counts as no session', async ({ store, peer }) => {
        const { next } = await rotate(store, MINUTE);
        assert.deepEqual(idsOf(await listAll(peer)), [next.id]);
        assert.deepEqual(idsOf((await peer.userSessions('ann')).records), [next.id]);
        assert.equal(await store.length(), 1);
      });

      test('create() of the old id is taken while it leads to the new one, and free again after it', async (opened) => {
        const { store } = opened;
        const { old, moved } = await rotate(store, 150, null);
        assert.deepEqual(await store.create(newSession({ id: old.id, data: 'other' })), { status: 'taken' });
        assert.deepEqual(await mustGet(store, old.id), moved);
        await passTime(opened, 151);
        assert.equal((await store.create(newSession({ id: old.id }))).status, 'created');
      });

      test('get() of the old id is null at once when the new one ends, by destroy, destroyMany or clear', async ({
        store,
        peer,
      }) => {
        for (const end of [
          (id: string) => peer.destroy(id),
          (id: string) => peer.destroyMany([id], 'ann'),
          () => peer.clear(),
        ]) {
          const { old, next } = await rotate(store, MINUTE);
          await end(next.id);
          assert.equal(await store.get(old.id), null);
          assert.equal(await store.get(next.id), null);
        }
      });

      test('get() of the old id is null when the new one expires', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store, { userId: 'ann', idleTimeout: 60 });
        await store.move(
          record,
          newSession({ userId: 'ann', idleTimeout: 60, alias: { keepMs: MINUTE, readMs: MINUTE } }),
        );
        await passTime(opened, 61);
        assert.equal(await store.get(record.id), null);
      });

      for (const userId of ['ann', 'bob']) {
        test(`get() of the old id is null once the new one has been moved on to ${userId} without an alias`, async ({
          store,
        }) => {
          const { old, next, moved } = await rotate(store, MINUTE);
          const third = newSession({ userId });
          assert.equal((await store.move(moved, third)).status, 'moved');
          for (const id of [old.id, next.id]) assert.equal(await store.get(id), null);
          assert.notEqual(await store.get(third.id), null);
        });
      }

      test('of five parallel move() with an alias exactly one moves, and the old id leads to it', async ({
        store,
        peer,
      }) => {
        for (let round = 0; round < 20; round++) {
          const { record } = await mustCreate(store, { userId: 'ann' });
          const nexts = Array.from({ length: 5 }, () =>
            newSession({ userId: 'ann', alias: { keepMs: MINUTE, readMs: MINUTE } }),
          );
          const results = await Promise.all(
            nexts.map((next, i) => (i % 2 === 0 ? peer : store).move(record, next)),
          );
          const moved = results.flatMap((result) => (result.status === 'moved' ? [result.record] : []));
          assert.equal(moved.length, 1);
          assert.deepEqual(await mustGet(store, record.id), moved[0]);
        }
      });

      test('at no moment of a move() with an alias is the old id absent', async ({ store, peer }) => {
        for (let round = 0; round < 50; round++) {
          const { record } = await mustCreate(store, { userId: 'ann' });
          let done = false;
          const moving = store
            .move(record, newSession({ userId: 'ann', alias: { keepMs: MINUTE, readMs: MINUTE } }))
            .finally(() => (done = true));
          do {
            assert.notEqual(await peer.get(record.id), null, `absent in round ${round}`);
          } while (!done);
          assert.equal((await moving).status, 'moved');
        }
      });

      test('userSessions(), all() and length() during moves with an alias list one session', async ({
        store,
        peer,
      }) => {
        let { record } = await mustCreate(store, { userId: 'ann' });
        for (let round = 0; round < 50; round++) {
          const next = newSession({ userId: 'ann', alias: { keepMs: MINUTE, readMs: MINUTE } });
          const [moved, listed] = await Promise.all([store.move(record, next), peer.userSessions('ann')]);
          assert.equal(listed.records.length, 1, `round ${round}`);
          ({ record } = moved as LoadedSession);
        }
        assert.equal(await store.length(), 1);
      });
    });

    describe('lists', () => {
      test('all() yields each live session once and length() counts them, ended ones left out', async (opened) => {
        const { store } = opened;
        const users = [null, 'ann', 'bob', 'Ö {x}'];
        const created = await Promise.all(
          Array.from({ length: 500 }, (_, i) =>
            mustCreate(store, { userId: users[i % 4]!, data: `{"i":${i}}` }),
          ),
        );
        await mustCreate(store, { idleTimeout: 30 });
        const kept = created.filter((_, i) => i % 5 !== 0).map(({ record }) => record);
        for (const [i, { record }] of created.entries()) if (i % 5 === 0) await store.destroy(record.id);
        await passTime(opened, 31);
        const found = await listAll(store);
        const byId = (a: SessionRecord, b: SessionRecord) => (a.id < b.id ? -1 : 1);
        assert.deepEqual(found.sort(byId), kept.sort(byId));
        assert.equal(await store.length(), kept.length);
      });

      test('clear() ends every session and leaves the store usable', async ({ store }) => {
        const created = await Promise.all(
          Array.from({ length: 450 }, (_, i) => mustCreate(store, { userId: i % 2 ? 'ann' : null })),
        );
        await store.clear();
        assert.equal(await store.length(), 0);
        assert.deepEqual(await listAll(store), []);
        assert.deepEqual((await store.userSessions('ann')).records, []);
        assert.equal(await store.get(created[0]!.record.id), null);
        assert.equal((await store.set(edit(created[0]!.record, 'back'))).status, 'gone');
        await mustCreate(store, { userId: 'ann' });
        assert.equal(await store.length(), 1);
      });

      test('all(), length() and clear() of an empty store find nothing', async ({ store }) => {
        await store.clear();
        assert.deepEqual(await listAll(store), []);
        assert.equal(await store.length(), 0);
      });

      test('userSessions() lists one user’s sessions, most recently used first', async (opened) => {
        const { store, peer } = opened;
        const made: SessionRecord[] = [];
        for (let i = 0; i < 4; i++) {
          made.push((await mustCreate(store, { userId: 'ann' })).record);
          await mustCreate(store, { userId: 'bob' });
          await passTime(opened, 2);
        }
        const [a, b, c, d] = made as [SessionRecord, SessionRecord, SessionRecord, SessionRecord];
        assert.deepEqual(idsOf((await peer.userSessions('ann')).records), idsOf([d, c, b, a]));
        await store.touch(a.id, 0, { userId: 'ann' });
        await passTime(opened, 2);
        await store.set(edit(c, 'used'));
        await store.set(edit(b, 'not used', true));
        assert.deepEqual(idsOf((await peer.userSessions('ann')).records), idsOf([c, a, d, b]));
        assert.deepEqual((await store.userSessions('ann')).records[0], await mustGet(store, c.id));
      });

      test('userSessions() of an unknown user is empty and tells the store’s time', async (opened) => {
        const { store } = opened;
        const { now } = await mustCreate(store, { userId: 'ann' });
        const listed = await store.userSessions('an');
        assert.deepEqual(listed.records, []);
        assert.ok(listed.now >= now && listed.now < now + MINUTE);
      });

      test('userSessions() lists sessions of one moment by id, as list() does, so that a place in one is a place in the other', async ({
        store,
      }) => {
        await Promise.all(Array.from({ length: 40 }, () => mustCreate(store, { userId: 'ann' })));
        const { records } = await store.userSessions('ann');
        assert.equal(records.length, 40);
        assert.deepEqual(idsOf(records), idsOf(records.toSorted(byActivity)));
      });
    });

    describe('lists by activity', () => {
      test('list() gives everybody’s sessions, most recently active first; only use moves one to the front', async (opened) => {
        const { store } = opened;
        const made: SessionRecord[] = [];
        for (const userId of ['ann', null, 'bob', 'Ö {x}', 'ann']) {
          made.push((await mustCreate(store, { userId, data: `{"of":"${userId}"}` })).record);
          await passTime(opened, 2);
        }
        const [a, b, c, d, e] = made as [
          SessionRecord,
          SessionRecord,
          SessionRecord,
          SessionRecord,
          SessionRecord,
        ];
        const { entries, next, now } = await store.list({ limit: 10 });
        assert.deepEqual(entries, [e, d, c, b, a]);
        assert.equal(next, null);
        assert.ok(now >= e.lastAccess + 2 && now < e.lastAccess + MINUTE);
        await store.touch(a.id, 0, { userId: 'ann' });
        await passTime(opened, 2);
        await store.set(edit(c, 'used'));
        await store.set(edit(b, 'not used', true));
        await store.touch(d.id, MINUTE, { userId: 'Ö {x}' });
        await passTime(opened, 2);
        assert.deepEqual(idsOf((await store.list({ limit: 10 })).entries), idsOf([c, a, e, d, b]));
        assert.deepEqual((await store.list({ limit: 1 })).entries[0], await mustGet(store, c.id));
      });

      test('list() in parts of every size gives each session once and in order, those of one millisecond too', async ({
        store,
      }) => {
        const users = [null, 'ann', 'bob', 'Ö {x}'];
        const created = await Promise.all(
          Array.from({ length: 24 }, (_, i) => mustCreate(store, { userId: users[i % 4]! })),
        );
        const wanted = created.map(({ record }) => record).sort(byActivity);
        assert.ok(new Set(wanted.map(({ lastAccess }) => lastAccess)).size < 24, 'no two of one millisecond');
        for (let limit = 1; limit <= 25; limit++) {
          const found = await inParts((query) => store.list(query), limit);
          assert.deepEqual(idsOf(found), idsOf(wanted), `parts of ${limit}`);
        }
      });

      test('listUsers() in parts of every size gives each user once, most recently active first, those of one millisecond too', async (opened) => {
        const { store } = opened;
        const users = [...ODD_USER_IDS, ...SAME_PARTITION];
        await Promise.all(users.map((userId) => mustCreate(store, { userId })));
        await mustCreate(store);
        await passTime(opened, 2);
        await mustCreate(store, { userId: 'Ann Ö. Smith' });
        for (let limit = 1; limit <= users.length + 1; limit++) {
          const found = await inParts((query) => store.listUsers(query), limit);
          assert.deepEqual(sorted(idsOf(found)), sorted(users), `parts of ${limit}`);
          assert.equal(found[0]?.id, 'Ann Ö. Smith');
          for (const [i, { lastAccess }] of found.entries())
            assert.ok(i === 0 || found[i - 1]!.lastAccess >= lastAccess, `parts of ${limit}: order at ${i}`);
        }
      });

      test('activeSince: list(), listUsers() and countActive() take what was active then or later, in parts too', async (opened) => {
        const { store } = opened;
        const made: SessionRecord[] = [];
        for (const userId of ['ann', null, 'bob', 'cid', null, 'dan']) {
          made.push((await mustCreate(store, { userId })).record);
          await passTime(opened, 3);
        }
        for (const [i, { lastAccess }] of made.entries()) {
          for (const [activeSince, first] of [
            [lastAccess, i],
            [lastAccess + 1, i + 1],
          ] as const) {
            const wanted = made.slice(first).reverse();
            assert.equal(await store.countActive(activeSince), wanted.length);
            for (const limit of [1, 2, 10]) {
              const found = await inParts((query) => store.list({ ...query, activeSince }), limit);
              assert.deepEqual(idsOf(found), idsOf(wanted));
              const users = await inParts((query) => store.listUsers({ ...query, activeSince }), limit);
              assert.deepEqual(
                idsOf(users),
                wanted.flatMap(({ userId }) => userId ?? []),
              );
            }
          }
        }
        assert.equal(await store.countActive(0), made.length);
        assert.equal(await store.countActive((await store.now()) + MINUTE), 0);
      });

      test('list() and listUsers() never show what has expired, swept or not, and parts are not cut short by it', async (opened) => {
        const { store } = opened;
        const kept: SessionRecord[] = [];
        for (let i = 0; i < 12; i++) {
          const short = i % 3 !== 0;
          const { record } = await mustCreate(store, {
            userId: `user ${i}`,
            ...(short && { idleTimeout: 60 }),
          });
          if (!short) kept.push(record);
        }
        await passTime(opened, 61);
        for (const sweep of [false, true]) {
          if (sweep)
            await store.sweep(
              () => undefined,
              1_000,
              () => false,
            );
          for (let limit = 1; limit <= 13; limit++) {
            const found = await inParts((query) => store.list(query), limit);
            assert.deepEqual(idsOf(found), idsOf(kept.toSorted(byActivity)));
            const users = await inParts((query) => store.listUsers(query), limit);
            assert.deepEqual(sorted(idsOf(users)), ['user 0', 'user 3', 'user 6', 'user 9']);
          }
        }
      });

      test('countActive() does not count what has expired, swept or not', async (opened) => {
        const { store } = opened;
        for (let i = 0; i < 6; i++)
          await mustCreate(store, { userId: `user ${i}`, ...(i % 2 === 0 && { idleTimeout: 300 }) });
        assert.equal(await store.countActive(0), 6);
        await passTime(opened, 301);
        assert.equal(await store.countActive(0), 3);
        await store.sweep(
          () => undefined,
          1_000,
          () => false,
        );
        assert.equal(await store.countActive(0), 3);
      });

      test('list(), listUsers() and countActive() show what was moved under its new id and user only, and nothing that has ended', async (opened) => {
        const { store, peer } = opened;
        const expectLive = async (live: Record<string, string | null>, when: string) => {
          const { entries } = await store.list({ limit: 100 });
          assert.deepEqual(Object.fromEntries(entries.map(({ id, userId }) => [id, userId])), live, when);
          assert.equal(entries.length, Object.keys(live).length, when);
          assert.equal(await store.countActive(0), entries.length, when);
          const users = idsOf((await store.listUsers({ limit: 100 })).entries);
          assert.deepEqual(
            sorted(users),
            sorted(new Set(Object.values(live).flatMap((user) => user ?? []))),
            when,
          );
        };
        const made = [];
        for (const userId of ['ann', 'ann', 'bob', 'cid', 'cid', null])
          made.push((await mustCreate(store, { userId })).record);
        const [a1, a2, b, c1, c2, n] = made as [
          SessionRecord,
          SessionRecord,
          SessionRecord,
          SessionRecord,
          SessionRecord,
          SessionRecord,
        ];
        const live: Record<string, string | null> = Object.fromEntries(
          made.map(({ id, userId }) => [id, userId]),
        );
        await expectLive(live, 'at first');
        for (const [from, userId, more] of [
          [a1, 'ann', {}],
          [a2, 'ann', { aliasMs: MINUTE }],
          [b, 'dan', {}],
          [n, 'eve', {}],
          [c1, null, {}],
          [c2, 'cid', { anew: true }],
        ] as const) {
          const next = newSession({ userId, ...more });
          assert.equal((await store.move(from, next)).status, 'moved');
          delete live[from.id];
          live[next.id] = userId;
          await expectLive(live, `${from.userId} to ${userId}`);
        }
        const idOf = (user: string | null) => Object.keys(live).find((id) => live[id] === user)!;
        for (const end of [
          (id: string) => store.destroy(id, { userId: live[id]! }),
          (id: string) => peer.destroy(id),
          (id: string) => store.destroyMany([id], live[id]!),
        ]) {
          const id = idOf(['dan', 'eve', 'cid'].find((user) => Object.values(live).includes(user))!);
          await end(id);
          delete live[id];
          await expectLive(live, 'after an end');
        }
        await peer.clear();
        await expectLive({}, 'after clear()');
      });

      test('a place beyond the end, or of a session that is gone, is a place like any other', async ({
        store,
      }) => {
        const created = await Promise.all(
          Array.from({ length: 6 }, () => mustCreate(store, { userId: 'ann' })),
        );
        const wanted = created.map(({ record }) => record).sort(byActivity);
        const after = wanted[2]!;
        await store.destroy(after.id);
        assert.deepEqual(idsOf((await store.list({ after, limit: 10 })).entries), idsOf(wanted.slice(3)));
        for (const beyond of [wanted[5]!, { lastAccess: 0, id: '' }, { lastAccess: 1, id: 'ÿ' }]) {
          for (const limit of [1, 10]) {
            const page = await store.list({ after: beyond, limit });
            assert.deepEqual([page.entries, page.next], [[], null]);
          }
        }
        for (const beyond of [
          { lastAccess: 0, id: '' },
          { lastAccess: wanted[5]!.lastAccess - 1, id: 'ann' },
        ])
          assert.deepEqual((await store.listUsers({ after: beyond, limit: 5 })).entries, []);
        const before = { lastAccess: after.lastAccess + MINUTE, id: '' };
        assert.equal((await store.list({ after: before, limit: 10 })).entries.length, 5);
        assert.deepEqual(idsOf((await store.listUsers({ after: before, limit: 10 })).entries), ['ann']);
      });

      test('list(), listUsers() and countActive() of an empty store find nothing', async ({ store }) => {
        for (const page of [await store.list({ limit: 5 }), await store.listUsers({ limit: 5 })])
          assert.deepEqual([page.entries, page.next], [[], null]);
        assert.equal(await store.countActive(0), 0);
      });

      test('what another process creates and uses is listed and counted within about a second', async (opened) => {
        const { store, peer } = opened;
        const { record: first } = await mustCreate(peer, { userId: 'ann' });
        const { record: second } = await mustCreate(peer, { userId: 'bob' });
        const listed = async (...ids: string[]) => {
          assert.deepEqual(idsOf((await store.list({ limit: 5 })).entries), ids);
          assert.equal(await store.countActive(0), ids.length);
          return true;
        };
        const inOrder = [first, second].sort(byActivity);
        await waitFor(() => listed(...idsOf(inOrder)), { timeoutMs: 3_000 });
        await passTime(opened, 2);
        const last = inOrder[1]!;
        await peer.touch(last.id, 0, { userId: last.userId });
        await waitFor(() => listed(last.id, inOrder[0]!.id), { timeoutMs: 3_000 });
      });

      test('now() tells the clock by which sessions are created and expire', async (opened) => {
        const { store, peer } = opened;
        const before = await peer.now();
        const { record } = await mustCreate(store);
        const after = await peer.now();
        assert.ok(Number.isSafeInteger(before) && before <= record.createdAt && record.createdAt <= after);
        await passTime(opened, 20);
        assert.ok((await store.now()) >= record.createdAt + 20);
      });

      test('clear() tells each session that was alive once, with its user, and none that was not', async (opened) => {
        const { store, peer } = opened;
        const users = [null, 'ann', 'Ö {x}'];
        const created = await Promise.all(
          Array.from({ length: 450 }, (_, i) => mustCreate(i % 2 ? store : peer, { userId: users[i % 3]! })),
        );
        await mustCreate(store, { userId: 'ann', idleTimeout: 40 });
        await store.destroy(created.shift()!.record.id);
        await passTime(opened, 41);
        const told: { id: string; userId: string | null }[] = [];
        await store.clear((sessions) => {
          for (const { id, userId } of sessions) told.push({ id, userId });
        });
        const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1);
        assert.deepEqual(
          told.sort(byId),
          created.map(({ record: { id, userId } }) => ({ id, userId })).sort(byId),
        );
        assert.equal(await peer.length(), 0);
        const again: unknown[] = [];
        await store.clear((sessions) => again.push(...sessions));
        assert.deepEqual(again, []);
      });
    });

    describe('expiry', () => {
      test('an idle session is there before its deadline and absent for every method after it', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store, { userId: 'ann', idleTimeout: 150 });
        assert.deepEqual(await mustGet(store, record.id), record);
        await passTime(opened, 151);
        assert.equal(await store.get(record.id), null);
        assert.deepEqual(await store.set(edit(record, 'late')), { status: 'gone' });
        assert.equal(await store.touch(record.id, 0, { userId: 'ann' }), null);
        assert.deepEqual(await store.move(record, newSession({ userId: 'ann' })), { status: 'gone' });
        assert.deepEqual(await store.move(record, newSession({ userId: 'bob' })), { status: 'gone' });
        assert.deepEqual((await store.userSessions('ann')).records, []);
        assert.deepEqual(await listAll(store), []);
        assert.equal(await store.length(), 0);
        assert.deepEqual(await store.destroyMany([record.id], 'ann'), []);
        assert.equal(await store.destroy(record.id), false);
        assert.equal(await store.get(record.id), null);
      });

      test('set() begins the idle time anew, the absolute deadline stands', async (opened) => {
        const { store } = opened;
        let { record } = await mustCreate(store, { idleTimeout: 120, absoluteTimeout: 300 });
        const { createdAt, absoluteDeadline } = record;
        let lastWrite = 0;
        for (;;) {
          await passTime(opened, 30);
          const result = await store.set(edit(record, 'again'));
          if (result.status !== 'written') break;
          ({ record } = result);
          assert.equal(record.absoluteDeadline, absoluteDeadline);
          lastWrite = result.now;
        }
        assert.ok(lastWrite > createdAt + 120, 'no write prolonged it');
        assert.ok(lastWrite < absoluteDeadline, 'written after the absolute deadline');
      });

      test('with idleTimeout 0 only the absolute deadline ends a session', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store, { idleTimeout: 0, absoluteTimeout: 80 });
        assert.equal(record.idleTimeout, 0);
        await passTime(opened, 81);
        assert.equal(await store.get(record.id), null);
      });

      test('with absoluteTimeout 0 only idleness ends a session', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store, { idleTimeout: 80, absoluteTimeout: 0 });
        assert.equal(record.absoluteDeadline, 0);
        await passTime(opened, 81);
        assert.equal(await store.get(record.id), null);
      });

      test('with both timeouts 0 a session does not end', async (opened) => {
        const { store } = opened;
        const { record } = await mustCreate(store, { userId: 'ann', idleTimeout: 0, absoluteTimeout: 0 });
        await passTime(opened, opened.advance === undefined ? 50 : 10_000 * DAY);
        assert.deepEqual(await mustGet(store, record.id), record);
        const touched = await store.touch(record.id, 0);
        assert.equal(touched?.lastAccess, touched?.now);
        const result = await store.move(
          await mustGet(store, record.id),
          newSession({
            userId: 'ann',
            idleTimeout: 0,
            absoluteTimeout: 0,
          }),
        );
        assert.equal(result.status === 'moved' && result.record.absoluteDeadline, 0);
        assert.equal(await store.length(), 1);
      });
    });

    describe('odd values', () => {
      for (const userId of ODD_USER_IDS) {
        test(`a session of the user ${JSON.stringify(userId).slice(0, 40)} is found, touched, moved and ended`, async ({
          store,
        }) => {
          const { record } = await mustCreate(store, { userId });
          assert.equal((await mustGet(store, record.id)).userId, userId);
          assert.deepEqual(idsOf((await store.userSessions(userId)).records), [record.id]);
          const written = (await store.set(edit(record, 'x'))) as LoadedSession;
          assert.equal(written.record.userId, userId);
          assert.notEqual(await store.touch(record.id, 0, { userId }), null);
          const next = newSession({ userId });
          assert.equal((await store.move(written.record, next)).status, 'moved');
          assert.deepEqual(idsOf((await store.userSessions(userId)).records), [next.id]);
          assert.equal((await listAll(store))[0]?.userId, userId);
          assert.equal(await store.destroy(next.id), true);
          assert.deepEqual((await store.userSessions(userId)).records, []);
        });
      }

      for (const data of ODD_DATA) {
        test(`the data ${JSON.stringify(data).slice(0, 40)} comes back from create, set and move`, async ({
          store,
        }) => {
          const { record } = await mustCreate(store, { data });
          assert.equal((await mustGet(store, record.id)).data, data);
          const other = (await store.set(edit(record, 'other'))) as LoadedSession;
          const again = (await store.set(edit(other.record, data))) as LoadedSession;
          assert.equal((await mustGet(store, record.id)).data, data);
          const next = newSession({ userId: 'ann', data });
          await store.move(again.record, next);
          assert.equal((await mustGet(store, next.id)).data, data);
          assert.equal((await listAll(store))[0]?.data, data);
        });
      }
    });

    describe('versions and races', () => {
      test('versions grow with every write, over destroy() and create() of the same id too', async ({
        store,
      }) => {
        const id = newId(null);
        let last = 0;
        for (let life = 0; life < 20; life++) {
          let { record } = await mustCreate(store, { id });
          for (let write = 0; write < 5; write++) {
            assert.ok(record.version > last, `version ${record.version} after ${last}`);
            last = record.version;
            ({ record } = (await store.set(edit(record, `{"w":${write}}`))) as LoadedSession);
          }
          assert.ok(record.version > last);
          last = record.version;
          await store.destroy(id);
        }
      });

      test('of two writers on one version exactly one writes, 200 times', async ({ store, peer }) => {
        let { record } = await mustCreate(store);
        for (let round = 0; round < 200; round++) {
          const results = await Promise.all([
            store.set(edit(record, `{"a":${round}}`)),
            peer.set(edit(record, `{"b":${round}}`)),
          ]);
          const [winner] = results.filter(({ status }) => status === 'written');
          const [loser] = results.filter(({ status }) => status === 'conflict');
          assert.ok(winner?.status === 'written' && loser?.status === 'conflict', `round ${round}`);
          assert.deepEqual(loser.record, winner.record);
          ({ record } = winner);
        }
        assert.deepEqual(await mustGet(store, record.id), record);
      });

      test('destroy() against set(), 1,000 times: none resurrected', async ({ store, peer }) => {
        const resurrected: number[] = [];
        const play = async (round: number) => {
          const userId = round % 2 ? 'ann' : null;
          const { record } = await mustCreate(store, { userId });
          const write = () => store.set(edit(record, 'saved'));
          const end = () => peer.destroy(record.id, round % 3 ? { userId } : undefined);
          const [first, second] = round % 4 < 2 ? [write, end] : [end, write];
          await Promise.all([first(), second()]);
          if ((await store.get(record.id)) !== null) resurrected.push(round);
        };
        for (let round = 0; round < 1_000; round += 50) {
          await Promise.all(Array.from({ length: 50 }, (_, i) => play(round + i)));
        }
        assert.deepEqual(resurrected, []);
        assert.equal(await store.length(), 0);
        assert.deepEqual((await store.userSessions('ann')).records, []);
      });

      test('destroy() against touch(), 300 times: none resurrected, no list entry left', async ({
        store,
        peer,
      }) => {
        const play = async (round: number) => {
          const { record } = await mustCreate(store, { userId: 'ann' });
          const hint = { userId: 'ann' };
          await Promise.all(
            round % 2
              ? [store.touch(record.id, 0, hint), peer.destroy(record.id, hint)]
              : [peer.destroy(record.id, hint), store.touch(record.id, 0, hint)],
          );
          assert.equal(await store.get(record.id), null);
        };
        for (let round = 0; round < 300; round += 50) {
          await Promise.all(Array.from({ length: 50 }, (_, i) => play(round + i)));
        }
        assert.equal(await store.length(), 0);
        assert.deepEqual((await store.userSessions('ann')).records, []);
      });
    });
  });
}

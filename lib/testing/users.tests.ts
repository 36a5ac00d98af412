// What a store with an index of users can do besides: userSessions(), destroyMany(), limits.
import assert from 'node:assert/strict';
import type { SessionLimit, SessionRecord } from '../index.js';
import {
  MINUTE,
  SUITE_PARTITIONS,
  byActivity,
  edit,
  expectSessionsOf,
  idsOf,
  mustCreate,
  mustGet,
  newId,
  newSession,
  passTime,
  partitionOf,
  sorted,
} from './kit.js';
import type { Suite } from './suite.js';

export function userTests({ describe, needing }: Suite): void {
  const test = needing('index');
  const evict = { max: 3, policy: 'evict' } as const;
  const reject = { max: 3, policy: 'reject' } as const;

  describe('sessions of a user', () => {
    test('destroyMany() ends the user’s sessions and tells which were live', async ({ store }) => {
      const ids: string[] = [];
      for (let i = 0; i < 4; i++) ids.push((await mustCreate(store, { userId: 'ann' })).record.id);
      const spared = await mustCreate(store, { userId: 'ann' });
      await store.destroy(ids[3]!);
      assert.deepEqual(sorted(await store.destroyMany(ids, 'ann')), sorted(ids.slice(0, 3)));
      assert.deepEqual(await store.destroyMany(ids, 'ann'), []);
      await expectSessionsOf(store, 'ann', [spared.record.id]);
    });

    test('destroyMany() with unknown ids, of other partitions too and in front, still ends the others', async ({
      store,
    }) => {
      const { record } = await mustCreate(store, { userId: 'ann' });
      const elsewhere = (partitionOf('ann') + 1) % SUITE_PARTITIONS;
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
      await expectSessionsOf(store, 'ann', []);
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
      await expectSessionsOf(peer, 'ann', idsOf([d, c, b, a]));
      await store.touch(a.id, 0, { userId: 'ann' });
      await passTime(opened, 2);
      await store.set(edit(c, 'used'));
      await store.set(edit(b, 'not used', true));
      await expectSessionsOf(peer, 'ann', idsOf([c, a, d, b]));
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
  describe('how many sessions a user may have', () => {
    test('create() at the limit ends the least recently used session and tells which', async (opened) => {
      const { store, peer } = opened;
      const ids: string[] = [];
      for (let i = 0; i < 3; i++) {
        ids.push((await mustCreate(store, { userId: 'ann', limit: evict })).record.id);
        await passTime(opened, 2);
      }
      const other = await mustCreate(store, { userId: 'bob', limit: evict });
      await store.touch(ids[0]!, 0, { userId: 'ann' });
      await passTime(opened, 2);
      const session = newSession({ userId: 'ann', limit: evict });
      const result = await store.create(session);
      assert.equal(result.status, 'created');
      assert.deepEqual(
        (result.displaced ?? []).map(({ id, reason }) => [id, reason]),
        [[ids[1], 'evicted']],
      );
      assert.equal(await peer.get(ids[1]!), null);
      await expectSessionsOf(peer, 'ann', [session.id, ids[0]!, ids[2]!]);
      await expectSessionsOf(peer, 'bob', [other.record.id]);
    });

    test('create() at the limit that rejects creates nothing, and succeeds once one has ended or expired', async (opened) => {
      const { store } = opened;
      const { record } = await mustCreate(store, { userId: 'ann', limit: reject });
      await mustCreate(store, { userId: 'ann', limit: reject });
      await mustCreate(store, { userId: 'ann', limit: reject, idleTimeout: 300 });
      const session = newSession({ userId: 'ann', limit: reject });
      assert.equal((await store.create(session)).status, 'limit');
      assert.equal(await store.get(session.id), null);
      assert.equal(await store.length(), 3);
      await mustCreate(store, { limit: reject });
      await mustCreate(store, { userId: 'bob', limit: reject });
      await store.destroy(record.id);
      assert.equal((await store.create(session)).status, 'created');
      assert.equal((await store.create(newSession({ userId: 'ann', limit: reject }))).status, 'limit');
      await passTime(opened, 301);
      assert.equal((await store.create(newSession({ userId: 'ann', limit: reject }))).status, 'created');
    });

    test('move() to a user at the limit makes room or is refused, and the old session lives on where it is', async (opened) => {
      const { store } = opened;
      const first = await mustCreate(store, { userId: 'ann' });
      await passTime(opened, 2);
      for (let i = 0; i < 2; i++) await mustCreate(store, { userId: 'ann' });
      const { record } = await mustCreate(store);
      const refused = newSession({ userId: 'ann', limit: reject });
      assert.equal((await store.move(record, refused)).status, 'limit');
      assert.equal(await store.get(refused.id), null);
      assert.equal((await mustGet(store, record.id)).userId, null);
      const next = newSession({ userId: 'ann', limit: evict });
      assert.equal((await store.move(await mustGet(store, record.id), next)).status, 'moved');
      assert.equal(await store.get(first.record.id), null);
      assert.equal((await store.userSessions('ann')).records.length, 3);
    });

    test('of 20 create() at once at the limit as many are left as it allows', async ({ store, peer }) => {
      const tries = (limit: SessionLimit) =>
        Promise.all(
          Array.from({ length: 20 }, (_, i) =>
            (i % 2 ? store : peer).create(newSession({ userId: limit.policy, limit })),
          ),
        );
      const rejected = await tries(reject);
      assert.equal(rejected.filter(({ status }) => status === 'created').length, 3);
      assert.equal((await store.userSessions('reject')).records.length, 3);
      const evicted = await tries(evict);
      assert.ok(evicted.every(({ status }) => status === 'created'));
      assert.equal((await store.userSessions('evict')).records.length, 3);
    });
  });
}

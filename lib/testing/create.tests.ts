// create() and get(): ids are unique, and what goes in comes out.
import assert from 'node:assert/strict';
import type { LoadedSession } from '../index.js';
import { expectSessionsOf, listAll, mustCreate, mustGet, newId, newSession, passTime } from './kit.js';
import type { Suite } from './suite.js';

export function createTests({ describe, test }: Suite): void {
  describe('create and get', () => {
    test('create() stores what it was given, and get() returns the same record', async ({ store, peer }) => {
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

    test('of ten parallel create() of one id exactly one is created', async ({ store, rival }) => {
      const id = newId(null);
      const results = await Promise.all(
        Array.from({ length: 10 }, (_, i) =>
          (i % 2 === 0 ? store : rival).create(newSession({ id, data: `{"by":${i}}` })),
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
      await expectSessionsOf(store, 'ann', [first.record.id]);
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
}

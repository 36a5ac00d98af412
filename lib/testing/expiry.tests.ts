// Idle and absolute deadlines, and sessions that have neither.
import assert from 'node:assert/strict';
import {
  DAY,
  destroyEach,
  edit,
  expectSessionsOf,
  idsOf,
  listAll,
  mustCreate,
  mustGet,
  newSession,
  passTime,
} from './kit.js';
import type { Suite } from './suite.js';

export function expiryTests({ describe, test }: Suite): void {
  describe('expiry', () => {
    test('an idle session is there before its deadline and absent for every method after it', async (opened) => {
      const { store } = opened;
      const { record } = await mustCreate(store, { userId: 'ann', idleTimeout: 500 });
      assert.deepEqual(await mustGet(store, record.id), record);
      await passTime(opened, 501);
      assert.equal(await store.get(record.id), null);
      assert.deepEqual(await store.set(edit(record, 'late')), { status: 'gone' });
      assert.equal(await store.touch(record.id, 0, { userId: 'ann' }), null);
      assert.deepEqual(await store.move(record, newSession({ userId: 'ann' })), { status: 'gone' });
      assert.deepEqual(await store.move(record, newSession({ userId: 'bob' })), { status: 'gone' });
      await expectSessionsOf(store, 'ann', []);
      assert.deepEqual(await listAll(store), []);
      assert.equal(await store.length(), 0);
      assert.deepEqual(await destroyEach(store, [record.id], 'ann'), []);
      assert.equal(await store.destroy(record.id), false);
      assert.equal(await store.get(record.id), null);
    });

    test('set() begins the idle time anew, the absolute deadline stands', async (opened) => {
      const { store } = opened;
      let { record } = await mustCreate(store, { idleTimeout: 400, absoluteTimeout: 1_000 });
      const { createdAt, absoluteDeadline } = record;
      let lastWrite = 0;
      for (;;) {
        await passTime(opened, 100);
        const result = await store.set(edit(record, 'again'));
        if (result.status !== 'written') break;
        ({ record } = result);
        assert.equal(record.absoluteDeadline, absoluteDeadline);
        lastWrite = result.now;
      }
      assert.ok(lastWrite > createdAt + 400, 'no write prolonged it');
      assert.ok(lastWrite < absoluteDeadline, 'written after the absolute deadline');
    });

    test('sweep() tells of each session that has expired once at most, of no other, and leaves the others be', async (opened) => {
      const { store } = opened;
      const gone = new Map<string, string | null>();
      for (const userId of ['ann', null, 'bob'])
        gone.set((await mustCreate(store, { userId, idleTimeout: 60 })).record.id, userId);
      const { record } = await mustCreate(store, { userId: 'ann' });
      await passTime(opened, 61);
      const told: { id: string; userId: string | null }[] = [];
      for (let sweeps = 0; sweeps < 2; sweeps++)
        await store.sweep(
          ({ id, userId }) => told.push({ id, userId }),
          1,
          () => false,
        );
      assert.equal(new Set(idsOf(told)).size, told.length, 'told twice');
      for (const { id, userId } of told) assert.equal(gone.get(id), userId);
      assert.deepEqual(await mustGet(store, record.id), record);
      assert.equal(await store.length(), 1);
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
}

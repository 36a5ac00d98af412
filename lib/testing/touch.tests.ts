// touch(): prolongs the idle time only, and never what has ended.
import assert from 'node:assert/strict';
import { expectSessionsOf, mustCreate, mustGet, newId, passTime } from './kit.js';
import type { Suite } from './suite.js';

export function touchTests({ describe, test }: Suite): void {
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
      await expectSessionsOf(store, 'Ann Ö{1}', [record.id]);
      await expectSessionsOf(store, 'someone else', []);
    });

    test('touch() keeps a session alive past its idle timeout, never past its absolute deadline', async (opened) => {
      const { store } = opened;
      const { record } = await mustCreate(store, { idleTimeout: 400, absoluteTimeout: 1_000 });
      let last = record.lastAccess;
      for (;;) {
        await passTime(opened, 100);
        const touched = await store.touch(record.id, 0);
        if (touched === null) break;
        assert.ok(touched.now < record.absoluteDeadline, 'touched after the absolute deadline');
        last = touched.lastAccess;
        const loaded = await store.get(record.id);
        if (loaded === null) break; // the absolute deadline passed between both calls
        assert.equal(loaded.record.absoluteDeadline, record.absoluteDeadline);
      }
      assert.ok(last > record.createdAt + 400, 'no touch prolonged it');
      assert.equal(await store.get(record.id), null);
    });

    test('touch() of an unknown or ended session resolves to null and creates nothing', async ({ store }) => {
      const { record } = await mustCreate(store, { userId: 'ann' });
      await store.destroy(record.id);
      assert.equal(await store.touch(record.id, 0, { userId: 'ann' }), null);
      assert.equal(await store.touch(newId(null), 0), null);
      await expectSessionsOf(store, 'ann', []);
      assert.equal(await store.length(), 0);
    });
  });
}

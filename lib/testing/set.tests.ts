// set(): writes on top of what was read, and on nothing else.
import assert from 'node:assert/strict';
import type { LoadedSession } from '../index.js';
import { edit, expectSessionsOf, mustCreate, mustGet, passTime } from './kit.js';
import type { Suite } from './suite.js';

export function setTests({ describe, test }: Suite): void {
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
      rival,
    }) => {
      const { record } = await mustCreate(store);
      await rival.set(edit(record, 'theirs'));
      const current = await mustGet(rival, record.id);
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
      await expectSessionsOf(store, 'ann', []);
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
      const { record } = await mustCreate(store, { idleTimeout: 1_000 });
      await passTime(opened, 300);
      const kept = (await store.set(edit(record, 'a', true))) as LoadedSession;
      assert.equal(kept.record.data, 'a');
      await passTime(opened, 701);
      assert.equal(await store.get(record.id), null);
    });
  });
}

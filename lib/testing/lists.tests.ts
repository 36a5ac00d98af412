// all(), length(), clear() and now().
import assert from 'node:assert/strict';
import type { SessionRecord } from '../index.js';
import { edit, expectSessionsOf, listAll, mustCreate, passTime } from './kit.js';
import type { Suite } from './suite.js';

export function listTests({ describe, test }: Suite): void {
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
      await expectSessionsOf(store, 'ann', []);
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
}

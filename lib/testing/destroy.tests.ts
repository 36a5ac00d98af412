// destroy(): ends one session, once.
import assert from 'node:assert/strict';
import { expectSessionsOf, mustCreate, newId } from './kit.js';
import type { Suite } from './suite.js';

export function destroyTests({ describe, test }: Suite): void {
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
        await expectSessionsOf(store, 'ann', []);
        assert.equal(await store.length(), 0);
      }
    });
  });
}

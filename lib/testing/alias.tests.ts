// move() with an alias: the old id leads to the new one for a while.
import assert from 'node:assert/strict';
import type { LoadedSession, SessionStore } from '../index.js';
import {
  destroyEach,
  MINUTE,
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

export function aliasTests({ describe, needing }: Suite): void {
  const test = needing('aliases');
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
      const { old, next, moved } = await rotate(store, 600);
      await passTime(opened, 300);
      // None of these begins the time anew.
      await store.touch(next.id, 0, { userId: 'ann' });
      await peer.set(edit(moved, 'later'));
      await store.touch(old.id, 0, { userId: 'ann' });
      await peer.get(old.id);
      await passTime(opened, 301);
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
      assert.deepEqual(await destroyEach(store, [old.id], 'ann'), []);
      assert.deepEqual(await mustGet(store, next.id), moved);
    });

    test('the old id is in no list and counts as no session', async ({ store, peer }) => {
      const { next } = await rotate(store, MINUTE);
      assert.deepEqual(idsOf(await listAll(peer)), [next.id]);
      await expectSessionsOf(peer, 'ann', [next.id]);
      assert.equal(await store.length(), 1);
    });

    test('create() of the old id is taken while it leads to the new one, and free again after it', async (opened) => {
      const { store } = opened;
      const { old, moved } = await rotate(store, 500, null);
      assert.deepEqual(await store.create(newSession({ id: old.id, data: 'other' })), { status: 'taken' });
      assert.deepEqual(await mustGet(store, old.id), moved);
      await passTime(opened, 501);
      assert.equal((await store.create(newSession({ id: old.id }))).status, 'created');
    });

    test('get() of the old id is null at once when the new one ends, by destroy, destroyMany or clear', async ({
      store,
      peer,
    }) => {
      for (const end of [
        (id: string) => peer.destroy(id),
        (id: string) => destroyEach(peer, [id], 'ann'),
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
      rival,
    }) => {
      for (let round = 0; round < 20; round++) {
        const { record } = await mustCreate(store, { userId: 'ann' });
        const nexts = Array.from({ length: 5 }, () =>
          newSession({ userId: 'ann', alias: { keepMs: MINUTE, readMs: MINUTE } }),
        );
        const results = await Promise.all(
          nexts.map((next, i) => (i % 2 === 0 ? rival : store).move(record, next)),
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

    needing('aliases', 'index')(
      'userSessions(), all() and length() during moves with an alias list one session',
      async ({ store, peer }) => {
        let { record } = await mustCreate(store, { userId: 'ann' });
        for (let round = 0; round < 50; round++) {
          const next = newSession({ userId: 'ann', alias: { keepMs: MINUTE, readMs: MINUTE } });
          const [moved, listed] = await Promise.all([store.move(record, next), peer.userSessions('ann')]);
          assert.equal(listed.records.length, 1, `round ${round}`);
          ({ record } = moved as LoadedSession);
        }
        assert.equal(await store.length(), 1);
      },
    );
  });
}

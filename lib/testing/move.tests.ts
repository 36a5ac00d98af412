// move(): a new id for a session, or another user; never two usable at once.
import assert from 'node:assert/strict';
import type { LoadedSession } from '../index.js';
import { DAY, MINUTE, edit, expectSessionsOf, mustCreate, mustGet, newSession, passTime } from './kit.js';
import type { Suite } from './suite.js';

export function moveTests({ describe, test }: Suite): void {
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
      await expectSessionsOf(store, 'ann', [next.id]);
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
      await expectSessionsOf(store, 'Ann {2}', [next.id]);
      assert.deepEqual(await mustGet(store, next.id), result.record);
      assert.equal(await store.length(), 1);
    });

    test('move() from one user to another changes both lists', async ({ store }) => {
      const { record } = await mustCreate(store, { userId: 'ann' });
      const next = newSession({ userId: 'bob', data: '{}' });
      assert.equal((await store.move(record, next)).status, 'moved');
      assert.equal(await store.get(record.id), null);
      await expectSessionsOf(store, 'ann', []);
      await expectSessionsOf(store, 'bob', [next.id]);
    });

    test('move() from a user to nobody leaves no list behind', async ({ store }) => {
      const { record } = await mustCreate(store, { userId: 'ann' });
      const next = newSession();
      assert.equal((await store.move(record, next)).status, 'moved');
      await expectSessionsOf(store, 'ann', []);
      assert.equal((await mustGet(store, next.id)).userId, null);
    });

    for (const userId of ['ann', 'bob']) {
      test(`move() of a superseded record to ${userId} is a conflict, moves nothing and creates nothing`, async ({
        store,
        rival,
      }) => {
        const { record } = await mustCreate(store, { userId: 'ann' });
        await rival.set(edit(record, 'theirs'));
        const current = await mustGet(store, record.id);
        const next = newSession({ userId });
        const result = await store.move(record, next);
        assert.equal(result.status, 'conflict');
        assert.deepEqual('record' in result && result.record, current);
        assert.deepEqual(await mustGet(store, record.id), current);
        assert.equal(await store.get(next.id), null);
        await expectSessionsOf(store, 'ann', [record.id]);
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
            // One after the other: an old session seen after the new one means both at once.
            const after = await peer.get(next.id);
            const before = await peer.get(record.id);
            assert.ok(after === null || before === null, `both usable in round ${round}`);
          } while (!done);
          assert.equal((await moving).status, 'moved');
        }
      });
    }

    test('of five parallel move() of one record exactly one moves', async ({ store, rival }) => {
      for (let round = 0; round < 20; round++) {
        const { record } = await mustCreate(store, { userId: 'ann' });
        const nexts = Array.from({ length: 5 }, (_, i) => newSession({ userId: i % 2 ? 'ann' : 'bob' }));
        const results = await Promise.all(
          nexts.map((next, i) => (i % 3 === 0 ? rival : store).move(record, next)),
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
      rival,
    }) => {
      for (let round = 0; round < 100; round++) {
        const { record } = await mustCreate(store, { userId: 'ann' });
        const next = newSession({ userId: round % 2 ? 'ann' : 'bob' });
        const [moved, written] = await Promise.all([
          store.move(record, next),
          rival.set(edit(record, 'edited')),
        ]);
        const outcome = `${moved.status} ${written.status}`;
        assert.ok(outcome === 'moved gone' || outcome === 'conflict written', outcome);
        assert.equal((await store.get(record.id)) === null, moved.status === 'moved');
        assert.equal((await store.get(next.id)) === null, moved.status !== 'moved');
      }
    });
  });
}

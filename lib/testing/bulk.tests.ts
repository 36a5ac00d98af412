// 10,000 sessions: nothing is left out, and nothing takes them all at once.
import assert from 'node:assert/strict';
import { idsOf, listAll, mustCreate, newSession, sorted } from './kit.js';
import type { Suite } from './suite.js';

const COUNT = 10_000;
/** How many are created at the same time. */
const AT_ONCE = 200;
/** More than this in one batch of `clear` would be no batch. */
const MAX_BATCH = 5_000;
const TIMEOUT_MS = 300_000;

/** Compares by numbers: runners take seconds to show how two lists of 10,000 differ. */
function expectSame(found: readonly string[], wanted: readonly string[]): void {
  const [seen, expected] = [new Set(found), new Set(wanted)];
  const missing = wanted.filter((id) => !seen.has(id)).length;
  const strange = found.filter((id) => !expected.has(id)).length;
  assert.deepEqual(
    { missing, strange, repeated: found.length - seen.size },
    { missing: 0, strange: 0, repeated: 0 },
  );
}

export function bulkTests({ describe, test }: Suite): void {
  describe('10,000 sessions', () => {
    test(
      'all(), length() and clear() of 10,000 sessions miss none and repeat none, clear() in bounded batches',
      async ({ store, peer }) => {
        assert.equal(await peer.length(), 0); // first, so that a store that cannot list is skipped before the work
        const ids: string[] = [];
        while (ids.length < COUNT) {
          const batch = Array.from({ length: AT_ONCE }, (_, i) =>
            newSession({ userId: i % 2 ? `user ${i % 50}` : null }),
          );
          const results = await Promise.all(batch.map((session) => store.create(session)));
          assert.ok(results.every(({ status }) => status === 'created'));
          ids.push(...idsOf(batch));
        }
        assert.equal(await peer.length(), COUNT);
        expectSame(idsOf(await listAll(peer)), ids);
        const ended: string[] = [];
        await store.clear((sessions) => {
          assert.ok(sessions.length <= MAX_BATCH, `${sessions.length} sessions in one batch`);
          ended.push(...idsOf(sessions));
        });
        expectSame(ended, ids);
        assert.equal(await peer.length(), 0);
        assert.deepEqual(await listAll(peer), []);
      },
      TIMEOUT_MS,
    );

    test('all() can be left half way, and gone through by two at once', async ({ store }) => {
      const ids: string[] = [];
      for (let i = 0; i < 50; i++) ids.push((await mustCreate(store)).record.id);
      for await (const { id } of store.all()) {
        assert.ok(ids.includes(id));
        break;
      }
      const both = await Promise.all([listAll(store), listAll(store)]);
      for (const found of both) assert.deepEqual(sorted(idsOf(found)), sorted(ids));
    });

    test('all() allows its reader to end each session it is shown', async ({ store }) => {
      assert.equal(await store.length(), 0);
      const ids: string[] = [];
      for (let i = 0; i < 450; i++) ids.push((await mustCreate(store)).record.id);
      const seen: string[] = [];
      for await (const { id } of store.all()) {
        assert.equal(await store.destroy(id), true);
        seen.push(id);
      }
      assert.deepEqual(sorted(seen), sorted(ids));
      assert.equal(await store.length(), 0);
    });
  });
}

// Versions, and what happens at the same time.
import assert from 'node:assert/strict';
import type { LoadedSession, SessionStore } from '../index.js';
import { edit, expectSessionsOf, mustCreate, mustGet, newId } from './kit.js';
import type { Suite } from './suite.js';

export function raceTests({ describe, test }: Suite): void {
  describe('versions and races', () => {
    test('versions grow with every write, over destroy() and create() of the same id too', async ({
      store,
    }) => {
      const id = newId(null);
      let last = 0;
      for (let life = 0; life < 20; life++) {
        let { record } = await mustCreate(store, { id });
        for (let write = 0; write < 5; write++) {
          assert.ok(record.version > last, `version ${record.version} after ${last}`);
          last = record.version;
          ({ record } = (await store.set(edit(record, `{"w":${write}}`))) as LoadedSession);
        }
        assert.ok(record.version > last);
        last = record.version;
        await store.destroy(id);
      }
    });

    test('of two writers on one version exactly one writes, 200 times', async ({ store, rival }) => {
      let { record } = await mustCreate(store);
      for (let round = 0; round < 200; round++) {
        const results = await Promise.all([
          store.set(edit(record, `{"a":${round}}`)),
          rival.set(edit(record, `{"b":${round}}`)),
        ]);
        const [winner] = results.filter(({ status }) => status === 'written');
        const [loser] = results.filter(({ status }) => status === 'conflict');
        assert.ok(winner?.status === 'written' && loser?.status === 'conflict', `round ${round}`);
        assert.deepEqual(loser.record, winner.record);
        ({ record } = winner);
      }
      assert.deepEqual(await mustGet(store, record.id), record);
    });

    test('100 increments at once, each repeated on top of what it met, add 100', async ({ store, rival }) => {
      const { record } = await mustCreate(store, { data: '0' });
      const increment = async (through: SessionStore) => {
        let base = await mustGet(through, record.id);
        for (let tries = 0; tries < 1_000; tries++) {
          const result = await through.set(edit(base, String(Number(base.data) + 1)));
          if (result.status === 'written') return;
          assert.equal(result.status, 'conflict');
          base = (result as LoadedSession).record;
        }
        throw new Error('1,000 conflicts in a row, although each try began with the current record');
      };
      await Promise.all(Array.from({ length: 100 }, (_, i) => increment(i % 2 ? store : rival)));
      assert.equal((await mustGet(store, record.id)).data, '100');
    });

    test('of two copies of one record only the first is saved, and both stay as they were read', async ({
      store,
      peer,
    }) => {
      const { record } = await mustCreate(store, { data: 'as it was' });
      const [one, two] = [await mustGet(store, record.id), await mustGet(peer, record.id)];
      const written = (await store.set(edit(one, 'one'))) as LoadedSession;
      assert.deepEqual([one, two], [record, record]);
      assert.equal((await store.set(edit(two, 'two'))).status, 'conflict');
      assert.deepEqual(await mustGet(peer, record.id), written.record);
    });

    test('what changed a record between its reading and its end does not keep destroy() from ending it', async ({
      store,
      peer,
    }) => {
      const { record } = await mustCreate(store, { userId: 'ann' });
      await peer.set(edit(record, 'later'));
      assert.equal(await store.destroy(record.id, { userId: 'ann' }), true);
      assert.equal(await peer.get(record.id), null);
      assert.deepEqual(await peer.set(edit(record, 'back')), { status: 'gone' });
    });

    test('destroy() against set(), 1,000 times: none resurrected', async ({ store, rival }) => {
      const resurrected: number[] = [];
      const play = async (round: number) => {
        const userId = round % 2 ? 'ann' : null;
        const { record } = await mustCreate(store, { userId });
        const write = () => store.set(edit(record, 'saved'));
        const end = () => rival.destroy(record.id, round % 3 ? { userId } : undefined);
        const [first, second] = round % 4 < 2 ? [write, end] : [end, write];
        await Promise.all([first(), second()]);
        if ((await store.get(record.id)) !== null) resurrected.push(round);
      };
      for (let round = 0; round < 1_000; round += 50) {
        await Promise.all(Array.from({ length: 50 }, (_, i) => play(round + i)));
      }
      assert.deepEqual(resurrected, []);
      assert.equal(await store.length(), 0);
      await expectSessionsOf(store, 'ann', []);
    });

    test('destroy() against touch(), 300 times: none resurrected, no list entry left', async ({
      store,
      rival,
    }) => {
      const play = async (round: number) => {
        const { record } = await mustCreate(store, { userId: 'ann' });
        const hint = { userId: 'ann' };
        await Promise.all(
          round % 2
            ? [store.touch(record.id, 0, hint), rival.destroy(record.id, hint)]
            : [rival.destroy(record.id, hint), store.touch(record.id, 0, hint)],
        );
        assert.equal(await store.get(record.id), null);
      };
      for (let round = 0; round < 300; round += 50) {
        await Promise.all(Array.from({ length: 50 }, (_, i) => play(round + i)));
      }
      assert.equal(await store.length(), 0);
      await expectSessionsOf(store, 'ann', []);
    });
  });
}

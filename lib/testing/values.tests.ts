// Values that must come back as they went in.
import assert from 'node:assert/strict';
import type { LoadedSession } from '../index.js';
import { ODD_DATA, ODD_METADATA, ODD_USER_IDS } from './odd-values.js';
import { edit, expectSessionsOf, listAll, mustCreate, mustGet, newSession } from './kit.js';
import type { Suite } from './suite.js';

/** For the name of a test. */
const short = (value: unknown): string => Array.from(JSON.stringify(value)).slice(0, 60).join('');

export function valueTests({ describe, test }: Suite): void {
  describe('odd values', () => {
    for (const userId of ODD_USER_IDS) {
      test(`a session of the user ${short(userId)} is found, touched, moved and ended`, async ({ store }) => {
        const { record } = await mustCreate(store, { userId });
        assert.equal((await mustGet(store, record.id)).userId, userId);
        await expectSessionsOf(store, userId, [record.id]);
        const written = (await store.set(edit(record, 'x'))) as LoadedSession;
        assert.equal(written.record.userId, userId);
        assert.notEqual(await store.touch(record.id, 0, { userId }), null);
        const next = newSession({ userId });
        assert.equal((await store.move(written.record, next)).status, 'moved');
        await expectSessionsOf(store, userId, [next.id]);
        assert.equal((await listAll(store))[0]?.userId, userId);
        assert.equal(await store.destroy(next.id), true);
        await expectSessionsOf(store, userId, []);
      });
    }

    for (const metadata of ODD_METADATA) {
      test(`the metadata ${short(metadata)} come back from create, set, touch and move`, async ({
        store,
        peer,
      }) => {
        const { record } = await mustCreate(store, { metadata });
        assert.deepEqual((await mustGet(peer, record.id)).metadata, metadata);
        const written = (await store.set(edit(record, 'x'))) as LoadedSession;
        assert.deepEqual(written.record.metadata, metadata);
        assert.notEqual(await store.touch(record.id, 0), null);
        assert.deepEqual((await mustGet(peer, record.id)).metadata, metadata);
        const next = newSession({ userId: 'ann', metadata });
        const moved = (await store.move(await mustGet(store, record.id), next)) as LoadedSession;
        assert.deepEqual(moved.record.metadata, metadata);
        assert.deepEqual((await mustGet(peer, next.id)).metadata, metadata);
        assert.deepEqual((await listAll(peer))[0]?.metadata, metadata);
      });
    }

    for (const data of ODD_DATA) {
      test(`the data ${short(data)} comes back from create, set and move`, async ({ store }) => {
        const { record } = await mustCreate(store, { data });
        assert.equal((await mustGet(store, record.id)).data, data);
        const other = (await store.set(edit(record, 'other'))) as LoadedSession;
        const again = (await store.set(edit(other.record, data))) as LoadedSession;
        assert.equal((await mustGet(store, record.id)).data, data);
        const next = newSession({ userId: 'ann', data });
        await store.move(again.record, next);
        assert.equal((await mustGet(store, next.id)).data, data);
        assert.equal((await listAll(store))[0]?.data, data);
      });
    }
  });
}

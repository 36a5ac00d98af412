// list(), listUsers() and countActive(): by last activity, in parts.
import assert from 'node:assert/strict';
import type { SessionRecord } from '../index.js';
import { ODD_USER_IDS } from './odd-values.js';
import {
  MINUTE,
  byActivity,
  destroyEach,
  eventually,
  edit,
  idsOf,
  inParts,
  mustCreate,
  mustGet,
  newSession,
  passTime,
  sorted,
  SAME_PARTITION,
  sweep,
} from './kit.js';
import type { Suite } from './suite.js';

export function activityTests({ describe, test }: Suite): void {
  describe('lists by activity', () => {
    test('list() gives everybody’s sessions, most recently active first; only use moves one to the front', async (opened) => {
      const { store } = opened;
      const made: SessionRecord[] = [];
      for (const userId of ['ann', null, 'bob', 'Ö {x}', 'ann']) {
        made.push((await mustCreate(store, { userId, data: `{"of":"${userId}"}` })).record);
        await passTime(opened, 2);
      }
      const [a, b, c, d, e] = made as [
        SessionRecord,
        SessionRecord,
        SessionRecord,
        SessionRecord,
        SessionRecord,
      ];
      const { entries, next, now } = await store.list({ limit: 10 });
      assert.deepEqual(entries, [e, d, c, b, a]);
      assert.equal(next, null);
      assert.ok(now >= e.lastAccess + 2 && now < e.lastAccess + MINUTE);
      await store.touch(a.id, 0, { userId: 'ann' });
      await passTime(opened, 2);
      await store.set(edit(c, 'used'));
      await store.set(edit(b, 'not used', true));
      await store.touch(d.id, MINUTE, { userId: 'Ö {x}' });
      await passTime(opened, 2);
      assert.deepEqual(idsOf((await store.list({ limit: 10 })).entries), idsOf([c, a, e, d, b]));
      assert.deepEqual((await store.list({ limit: 1 })).entries[0], await mustGet(store, c.id));
    });

    test('list() in parts of every size gives each session once and in order, those of one millisecond too', async ({
      store,
    }) => {
      const users = [null, 'ann', 'bob', 'Ö {x}'];
      const wanted: SessionRecord[] = [];
      // Until two are of one millisecond; a store that takes one at a time may have none.
      for (let tries = 0; tries < 3; tries++) {
        const created = await Promise.all(
          Array.from({ length: 24 }, (_, i) => mustCreate(store, { userId: users[i % 4]! })),
        );
        wanted.push(...created.map(({ record }) => record));
        if (new Set(wanted.map(({ lastAccess }) => lastAccess)).size < wanted.length) break;
      }
      wanted.sort(byActivity);
      for (let limit = 1; limit <= wanted.length + 1; limit++) {
        const found = await inParts((query) => store.list(query), limit);
        assert.deepEqual(idsOf(found), idsOf(wanted), `parts of ${limit}`);
      }
    });

    test('listUsers() in parts of every size gives each user once, most recently active first, those of one millisecond too', async (opened) => {
      const { store } = opened;
      const users = [...ODD_USER_IDS, ...SAME_PARTITION];
      await Promise.all(users.map((userId) => mustCreate(store, { userId })));
      await mustCreate(store);
      await passTime(opened, 2);
      await mustCreate(store, { userId: 'Ann Ö. Smith' });
      for (let limit = 1; limit <= users.length + 1; limit++) {
        const found = await inParts((query) => store.listUsers(query), limit);
        assert.deepEqual(sorted(idsOf(found)), sorted(users), `parts of ${limit}`);
        assert.equal(found[0]?.id, 'Ann Ö. Smith');
        for (const [i, { lastAccess }] of found.entries())
          assert.ok(i === 0 || found[i - 1]!.lastAccess >= lastAccess, `parts of ${limit}: order at ${i}`);
      }
    });

    test('activeSince: list(), listUsers() and countActive() take what was active then or later, in parts too', async (opened) => {
      const { store } = opened;
      const made: SessionRecord[] = [];
      for (const userId of ['ann', null, 'bob', 'cid', null, 'dan']) {
        made.push((await mustCreate(store, { userId })).record);
        await passTime(opened, 3);
      }
      for (const [i, { lastAccess }] of made.entries()) {
        for (const [activeSince, first] of [
          [lastAccess, i],
          [lastAccess + 1, i + 1],
        ] as const) {
          const wanted = made.slice(first).reverse();
          assert.equal(await store.countActive(activeSince), wanted.length);
          for (const limit of [1, 2, 10]) {
            const found = await inParts((query) => store.list({ ...query, activeSince }), limit);
            assert.deepEqual(idsOf(found), idsOf(wanted));
            const users = await inParts((query) => store.listUsers({ ...query, activeSince }), limit);
            assert.deepEqual(
              idsOf(users),
              wanted.flatMap(({ userId }) => userId ?? []),
            );
          }
        }
      }
      assert.equal(await store.countActive(0), made.length);
      assert.equal(await store.countActive((await store.now()) + MINUTE), 0);
    });

    test('list() and listUsers() never show what has expired, swept or not, and parts are not cut short by it', async (opened) => {
      const { store } = opened;
      const kept: SessionRecord[] = [];
      for (let i = 0; i < 12; i++) {
        const short = i % 3 !== 0;
        const { record } = await mustCreate(store, {
          userId: `user ${i}`,
          ...(short && { idleTimeout: 60 }),
        });
        if (!short) kept.push(record);
      }
      await passTime(opened, 61);
      for (const swept of [false, true]) {
        if (swept) await sweep(store);
        for (let limit = 1; limit <= 13; limit++) {
          const found = await inParts((query) => store.list(query), limit);
          assert.deepEqual(idsOf(found), idsOf(kept.toSorted(byActivity)));
          const users = await inParts((query) => store.listUsers(query), limit);
          assert.deepEqual(sorted(idsOf(users)), ['user 0', 'user 3', 'user 6', 'user 9']);
        }
      }
    });

    test('countActive() does not count what has expired, swept or not', async (opened) => {
      const { store } = opened;
      for (let i = 0; i < 6; i++)
        await mustCreate(store, { userId: `user ${i}`, ...(i % 2 === 0 && { idleTimeout: 600 }) });
      assert.equal(await store.countActive(0), 6);
      await passTime(opened, 601);
      assert.equal(await store.countActive(0), 3);
      await sweep(store);
      assert.equal(await store.countActive(0), 3);
    });

    test('list(), listUsers() and countActive() show what was moved under its new id and user only, and nothing that has ended', async ({
      store,
      peer,
      can,
    }) => {
      const expectLive = async (live: Record<string, string | null>, when: string) => {
        const { entries } = await store.list({ limit: 100 });
        assert.deepEqual(Object.fromEntries(entries.map(({ id, userId }) => [id, userId])), live, when);
        assert.equal(entries.length, Object.keys(live).length, when);
        assert.equal(await store.countActive(0), entries.length, when);
        const users = idsOf((await store.listUsers({ limit: 100 })).entries);
        assert.deepEqual(
          sorted(users),
          sorted(new Set(Object.values(live).flatMap((user) => user ?? []))),
          when,
        );
      };
      const made = [];
      for (const userId of ['ann', 'ann', 'bob', 'cid', 'cid', null])
        made.push((await mustCreate(store, { userId })).record);
      const [a1, a2, b, c1, c2, n] = made as [
        SessionRecord,
        SessionRecord,
        SessionRecord,
        SessionRecord,
        SessionRecord,
        SessionRecord,
      ];
      const live: Record<string, string | null> = Object.fromEntries(
        made.map(({ id, userId }) => [id, userId]),
      );
      await expectLive(live, 'at first');
      for (const [from, userId, more] of [
        [a1, 'ann', {}],
        [a2, 'ann', can.aliases ? { alias: { keepMs: MINUTE, readMs: MINUTE } } : {}],
        [b, 'dan', {}],
        [n, 'eve', {}],
        [c1, null, {}],
        [c2, 'cid', { restartsAbsolute: true }],
      ] as const) {
        const next = newSession({ userId, ...more });
        assert.equal((await store.move(from, next)).status, 'moved');
        delete live[from.id];
        live[next.id] = userId;
        await expectLive(live, `${from.userId} to ${userId}`);
      }
      const idOf = (user: string | null) => Object.keys(live).find((id) => live[id] === user)!;
      for (const end of [
        (id: string) => store.destroy(id, { userId: live[id]! }),
        (id: string) => peer.destroy(id),
        (id: string) => destroyEach(store, [id], live[id]!),
      ]) {
        const id = idOf(['dan', 'eve', 'cid'].find((user) => Object.values(live).includes(user))!);
        await end(id);
        delete live[id];
        await expectLive(live, 'after an end');
      }
      await peer.clear();
      await expectLive({}, 'after clear()');
    });

    test('a place beyond the end, or of a session that is gone, is a place like any other', async ({
      store,
    }) => {
      const created = await Promise.all(
        Array.from({ length: 6 }, () => mustCreate(store, { userId: 'ann' })),
      );
      const wanted = created.map(({ record }) => record).sort(byActivity);
      const after = wanted[2]!;
      await store.destroy(after.id);
      assert.deepEqual(idsOf((await store.list({ after, limit: 10 })).entries), idsOf(wanted.slice(3)));
      for (const beyond of [wanted[5]!, { lastAccess: 0, id: '' }, { lastAccess: 1, id: 'ÿ' }]) {
        for (const limit of [1, 10]) {
          const page = await store.list({ after: beyond, limit });
          assert.deepEqual([page.entries, page.next], [[], null]);
        }
      }
      for (const beyond of [
        { lastAccess: 0, id: '' },
        { lastAccess: wanted[5]!.lastAccess - 1, id: 'ann' },
      ])
        assert.deepEqual((await store.listUsers({ after: beyond, limit: 5 })).entries, []);
      const before = { lastAccess: after.lastAccess + MINUTE, id: '' };
      assert.equal((await store.list({ after: before, limit: 10 })).entries.length, 5);
      assert.deepEqual(idsOf((await store.listUsers({ after: before, limit: 10 })).entries), ['ann']);
    });

    test('list(), listUsers() and countActive() of an empty store find nothing', async ({ store }) => {
      for (const page of [await store.list({ limit: 5 }), await store.listUsers({ limit: 5 })])
        assert.deepEqual([page.entries, page.next], [[], null]);
      assert.equal(await store.countActive(0), 0);
    });

    test('what another process creates and uses is listed and counted within about a second', async (opened) => {
      const { store, peer } = opened;
      assert.equal(await store.countActive(0), 0); // a store that cannot list is skipped here, not after the wait
      const { record: first } = await mustCreate(peer, { userId: 'ann' });
      const { record: second } = await mustCreate(peer, { userId: 'bob' });
      const listed = async (...ids: string[]) => {
        assert.deepEqual(idsOf((await store.list({ limit: 5 })).entries), ids);
        assert.equal(await store.countActive(0), ids.length);
      };
      const inOrder = [first, second].sort(byActivity);
      await eventually(() => listed(...idsOf(inOrder)), 3_000);
      await passTime(opened, 2);
      const last = inOrder[1]!;
      await peer.touch(last.id, 0, { userId: last.userId });
      await eventually(() => listed(last.id, inOrder[0]!.id), 3_000);
    });
  });
}

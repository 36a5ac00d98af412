// SessionStore.fence over each store of ours: what it holds, whom it spares, and when it lets go.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DiskSessionStore } from '../../lib/disk-store/index.js';
import { MemorySessionStore, SessionEvents, type SessionRecord, type SessionStore } from '../../lib/index.js';
import { resolveSessionOptions } from '../../lib/options/resolve-session-options.js';
import { openOwnClient } from '../../lib/store/redis-client.js';
import { RedisSessionStore } from '../../lib/store/redis-session.store.js';
import { mustCreate, mustGet, newSession, sorted } from '../../lib/testing/kit.js';
import { deleteByPrefix, testRedisUrl, uniquePrefix } from '../support/redis-url.js';

const stores: Record<string, () => Promise<{ store: SessionStore; close: () => Promise<void> }>> = {
  memory: async () => {
    const store = new MemorySessionStore();
    return { store, close: () => store.close() };
  },
  disk: async () => {
    const path = mkdtempSync(join(tmpdir(), 'fence-'));
    const store = new DiskSessionStore({ path });
    await store.open();
    const close = async () => {
      await store.close();
      rmSync(path, { recursive: true });
    };
    return { store, close };
  },
  Redis: async () => {
    const keyPrefix = uniquePrefix();
    const options = resolveSessionOptions({ redis: testRedisUrl(), keyPrefix, commandTimeout: '5s' });
    const store = new RedisSessionStore(
      () => openOwnClient(testRedisUrl(), 'fence', 5_000),
      options,
      new SessionEvents(() => undefined),
    );
    await store.open();
    const close = async () => {
      await store.close();
      const admin = new Redis(testRedisUrl());
      await deleteByPrefix(admin, keyPrefix);
      admin.disconnect();
    };
    return { store, close };
  },
};

describe.each(Object.entries(stores))('fence() of the %s store', (name, open) => {
  let store: SessionStore;
  let close: () => Promise<void>;
  beforeEach(async () => ({ store, close } = await open()));
  afterEach(() => close());

  const create = async (userId: string | null): Promise<SessionRecord> =>
    (await mustCreate(store, { userId })).record;
  const rotate = (record: SessionRecord) => store.move(record, newSession({ userId: record.userId }));

  it('holds the ids of the sessions the user has, until it is released', async () => {
    const held = await create('ann');
    const fence = await store.fence('ann', []);
    expect(await rotate(held)).toEqual({ status: 'gone' });
    expect(await mustGet(store, held.id)).toEqual(held); // it lives; only its id stays
    expect((await store.set({ base: held, data: '{"n":1}', keepExpiry: false })).status).toBe('written');
    await fence.release();
    expect((await rotate(await mustGet(store, held.id))).status).toBe('moved');
  });

  it("is nothing to other users' sessions, to anonymous ones, and to those that are made later", async () => {
    await create('ann');
    const others = [await create('bob'), await create(null)];
    await store.fence('ann', []);
    await new Promise((resolve) => setTimeout(resolve, 2)); // Redis tells sessions apart by the millisecond
    for (const record of [...others, await create('ann')])
      expect((await rotate(record)).status).toBe('moved');
  });

  it('lets a session go to another user', async () => {
    const held = await create('ann');
    await store.fence('ann', []);
    expect((await store.move(held, newSession({ userId: 'bob' }))).status).toBe('moved');
  });

  it('spares those named, and what they become', async () => {
    const [held, spared] = [await create('ann'), await create('ann')];
    const fence = await store.fence('ann', [spared.id]);
    expect(await fence.spared()).toEqual(new Set([spared.id]));
    const next = newSession({ userId: 'ann' });
    const moved = await store.move(spared, next);
    expect(moved.status).toBe('moved');
    expect((await rotate(await mustGet(store, next.id))).status).toBe('moved');
    const ids = (await store.userSessions('ann')).records.map(({ id }) => id);
    const now = await fence.spared();
    expect([...now]).toEqual(expect.arrayContaining([spared.id, next.id]));
    expect(sorted(ids.filter((id) => !now.has(id)))).toEqual([held.id]);
    await fence.release();
  });

  // Redis has one fence per user: the last one that was set.
  if (name === 'Redis') return;

  it.each([
    ['first', 0, 1],
    ['second', 1, 0],
  ])('of two of one user, the one that is left holds when the %s is released', async (_, gone, left) => {
    const held = await create('ann');
    const fences = [await store.fence('ann', []), await store.fence('ann', [])];
    await fences[gone]!.release();
    expect(await rotate(held)).toEqual({ status: 'gone' });
    await fences[gone]!.release(); // once more is nothing to the other
    expect(await rotate(held)).toEqual({ status: 'gone' });
    await fences[left]!.release();
    expect((await rotate(held)).status).toBe('moved');
  });

  it('what one of two holds is not let go because the other spares it or began later', async () => {
    const [one, two, both] = [await create('ann'), await create('ann'), await create('ann')];
    const first = await store.fence('ann', [one.id, both.id]);
    const later = await create('ann');
    const second = await store.fence('ann', [two.id, both.id]);
    for (const held of [one, two, later]) expect(await rotate(held)).toEqual({ status: 'gone' });
    const next = newSession({ userId: 'ann' });
    expect((await store.move(both, next)).status).toBe('moved');
    expect(await first.spared()).toEqual(new Set([one.id, both.id, next.id]));
    expect(await second.spared()).toEqual(new Set([two.id, both.id, next.id]));
    await second.release();
    expect((await rotate(later)).status).toBe('moved');
    expect(await first.spared()).toEqual(new Set([one.id, both.id, next.id])); // it never spared that one
    expect((await rotate(one)).status).toBe('moved');
    expect(await rotate(two)).toEqual({ status: 'gone' });
    await first.release();
    expect((await rotate(two)).status).toBe('moved');
  });
});

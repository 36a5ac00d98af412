// A record that something else has overwritten: absent, and in nobody's way.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Logger } from '@nestjs/common';
import { open } from 'lmdb';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DiskSessionStore } from '../../../lib/disk-store/index.js';
import type { ExpiredSession, SessionRecord } from '../../../lib/index.js';
import { mustCreate, newSession, sorted } from '../../../lib/testing/kit.js';
import { ManualClock } from '../../support/manual-clock.js';

const SECRET = 'not-for-logs-ü';

const damages: [string, (value: Buffer) => Buffer | string][] = [
  ['truncated', (value) => value.subarray(0, value.length / 2)],
  ['truncated within a character', (value) => value.subarray(0, value.indexOf('ü') + 1)],
  ['empty', () => ''],
  ['foreign text', () => `garbage ${SECRET}`],
  ['JSON that is no object', () => 'null'],
  ['JSON of another shape', () => JSON.stringify({ user: 'ann', data: SECRET })],
  ['a list', () => '[]'],
];

/** Each part of a record that must be there, and be what it is. */
const misshapen: [string, object][] = [
  ['metadata', { metadata: undefined }],
  ['metadata', { metadata: null }],
  ['userId', { userId: 7 }],
  ['userId', { userId: undefined }],
  ['id', { id: 'another' }],
  ['data', { data: { n: 1 } }],
  ...['version', 'createdAt', 'lastAccess', 'idleTimeout', 'absoluteDeadline'].map(
    (name): [string, object] => [name, { [name]: null }],
  ),
];

describe.each(damages)('DiskSessionStore with a record that is %s', (_, damage) => {
  let path: string;
  let clock: ManualClock;
  let store: DiskSessionStore;
  let warn: ReturnType<typeof vi.spyOn>;
  /** One of ann's two. */
  let bad: SessionRecord;
  let good: SessionRecord;
  let other: SessionRecord;

  const onFile = async <R>(use: (db: ReturnType<typeof open<Buffer, string>>) => R | Promise<R>) => {
    await store.close();
    const db = open<Buffer, string>({ path, noSubdir: false, encoding: 'binary' });
    const result = await use(db);
    await db.close();
    await store.open();
    return result;
  };
  const spoil = (...ids: string[]) =>
    onFile(async (db) => {
      for (const id of ids) await db.put(`r:${id}`, Buffer.from(damage(db.get(`r:${id}`)!)));
    });
  const keysOf = (id: string) => onFile((db) => Array.from(db.getKeys()).filter((key) => key.includes(id)));
  const all = async () => {
    const ids: string[] = [];
    for await (const { id } of store.all()) ids.push(id);
    return sorted(ids);
  };
  const sweep = async () => {
    const told: ExpiredSession[] = [];
    await store.sweep(
      (session) => told.push(session),
      1_000,
      () => false,
    );
    return told;
  };
  const ann = { userId: 'ann', data: SECRET };

  beforeEach(async () => {
    warn = vi.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
    path = mkdtempSync(join(tmpdir(), 'sessionkit-disk-'));
    clock = new ManualClock();
    store = new DiskSessionStore({ path, clock });
    await store.open();
    good = (await mustCreate(store, ann)).record;
    clock.advance(1);
    other = (await mustCreate(store, { userId: 'bob' })).record;
    clock.advance(1);
    bad = (await mustCreate(store, ann)).record;
    await spoil(bad.id);
  });

  afterEach(async () => {
    await store.close();
    rmSync(path, { recursive: true });
    vi.restoreAllMocks();
  });

  it('it is absent to each method, and warned of once by id and path, never with data', async () => {
    expect(await store.get(bad.id)).toBeNull();
    expect(await store.successorOf(bad.id)).toBeNull();
    expect(await store.touch(bad.id, 0)).toBeNull();
    expect(await store.set({ base: bad, data: 'x', keepExpiry: false })).toEqual({ status: 'gone' });
    expect(await store.move(bad, newSession(ann))).toEqual({ status: 'gone' });
    expect(warn).toHaveBeenCalledOnce();
    const said = String(warn.mock.calls[0]![0]);
    expect(said).toContain(bad.id);
    expect(said).toContain(path);
    expect(said).not.toContain('not-for-logs');
  });

  it('lists and moves of other sessions go on without it', async () => {
    expect((await store.userSessions('ann')).records).toEqual([good]);
    expect((await store.list({ limit: 10 })).entries).toEqual([other, good]);
    expect((await store.list({ limit: 1 })).entries).toEqual([other]);
    expect((await store.listUsers({ limit: 10 })).entries).toEqual([
      { id: 'bob', lastAccess: other.lastAccess },
      { id: 'ann', lastAccess: good.lastAccess },
    ]);
    expect(await all()).toEqual(sorted([good.id, other.id]));
    expect((await store.set({ base: other, data: 'x', keepExpiry: false })).status).toBe('written');
    expect(await store.touch(good.id, 0)).not.toBeNull();
    const fence = await store.fence('ann', []);
    await fence.release();
    expect((await store.move(good, newSession(ann))).status).toBe('moved');
  });

  it.each(['evict', 'reject'] as const)('it takes no place of a limit that would %s', async (policy) => {
    const limit = { max: 2, policy };
    const second = await store.create(newSession({ ...ann, limit }));
    expect(second).toMatchObject({ status: 'created', displaced: [] });
    const third = await store.create(newSession({ ...ann, limit }));
    if (policy === 'reject') expect(third).toEqual({ status: 'limit' });
    else expect(third).toMatchObject({ displaced: [{ id: good.id }] });
  });

  it.each([
    ['destroy', async (id: string) => expect(await store.destroy(id)).toBe(false)],
    [
      'destroyMany',
      async (id: string) => expect(await store.destroyMany([id, good.id], 'ann')).toEqual([good.id]),
    ],
  ])('%s() removes it with its entries, tells the near caches, and does not count it', async (_name, end) => {
    const heard: [string, number][] = [];
    store.onChange((id, version) => heard.push([id, version]));
    await end(bad.id);
    expect(heard).toContainEqual([bad.id, Infinity]);
    expect(await keysOf(bad.id)).toEqual([]);
    expect((await store.get(other.id))?.record).toEqual(other);
    expect(await store.destroy(bad.id)).toBe(false);
    clock.advance(bad.idleTimeout + 1);
    expect((await sweep()).map(({ id }) => id)).not.toContain(bad.id);
  });

  it.each(['create', 'move'] as const)('%s() may give its id anew, without a trace of it', async (how) => {
    clock.advance(1_000);
    const next = newSession({ id: bad.id, userId: 'bob', idleTimeout: bad.idleTimeout * 2 });
    const result = how === 'create' ? await store.create(next) : await store.move(other, next);
    expect(result.status).toBe(how === 'create' ? 'created' : 'moved');
    expect(await keysOf(bad.id)).toHaveLength(4);
    expect((await store.userSessions('ann')).records).toEqual([good]);
    clock.advance(bad.idleTimeout + 1);
    expect((await sweep()).map(({ id }) => id)).not.toContain(bad.id); // nor does its old deadline end it
    expect((await store.get(bad.id))?.record.userId).toBe('bob');
  });

  it('sweep() tells and removes it when its time is up, and the others beside it', async () => {
    expect(await sweep()).toEqual([]);
    clock.advance(bad.idleTimeout + 1);
    const told = await sweep();
    expect(sorted(told.map(({ id }) => id))).toEqual(sorted([bad.id, good.id, other.id]));
    expect(told).toContainEqual({ id: bad.id, userId: 'ann', metadata: {} });
    expect(told).toContainEqual({ id: good.id, userId: 'ann', metadata: good.metadata });
    expect(await keysOf(bad.id)).toEqual([]);
    expect(await store.length()).toBe(0);
  });

  it('clear() ends the others and removes every key of it', async () => {
    const ended: string[] = [];
    await store.clear((sessions) => ended.push(...sessions.map(({ id }) => id)));
    expect(sorted(ended)).toEqual(sorted([good.id, other.id]));
    expect(await keysOf(bad.id)).toEqual([]);
    expect(await store.length()).toBe(0);
  });
});

it.each(misshapen)('a record with a wrong %s is absent: %j', async (_, parts) => {
  vi.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
  const path = mkdtempSync(join(tmpdir(), 'sessionkit-disk-'));
  const store = new DiskSessionStore({ path });
  await store.open();
  const { record } = await mustCreate(store, { userId: 'ann' });
  const write = async (value: object) => {
    await store.close();
    const db = open<string, string>({ path, noSubdir: false, encoding: 'string' });
    await db.put(`r:${record.id}`, JSON.stringify(value));
    await db.close();
    await store.open();
  };
  await write({ ...record, ...parts });
  expect(await store.get(record.id)).toBeNull();
  await write({ ...record, added: 'by a later version' });
  expect((await store.get(record.id))?.record).toMatchObject(record);
  await store.close();
  rmSync(path, { recursive: true });
  vi.restoreAllMocks();
});

it('all() and clear() of the DiskSessionStore go past pages of unreadable records', async () => {
  vi.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
  const path = mkdtempSync(join(tmpdir(), 'sessionkit-disk-'));
  const store = new DiskSessionStore({ path, timeoutMs: 60_000 });
  await store.open();
  const ids = await Promise.all(
    Array.from({ length: 1_300 }, async () => (await mustCreate(store)).record.id),
  );
  await store.close();
  const db = open<string, string>({ path, noSubdir: false, encoding: 'string' });
  // All but the last of them in the order of ids.
  const inOrder = sorted(ids);
  await db.transaction(() => {
    for (const id of inOrder.slice(0, -1)) void db.put(`r:${id}`, '{');
  });
  await db.close();
  await store.open();
  const found: string[] = [];
  for await (const { id } of store.all()) found.push(id);
  expect(found).toEqual([inOrder.at(-1)]);
  const ended: string[] = [];
  await store.clear((sessions) => ended.push(...sessions.map(({ id }) => id)));
  expect(ended).toEqual([inOrder.at(-1)]);
  expect(await store.length()).toBe(0);
  await store.close();
  rmSync(path, { recursive: true });
  vi.restoreAllMocks();
});

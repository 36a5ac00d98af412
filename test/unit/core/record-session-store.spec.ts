// RecordSessionStore: the contract over the least there can be beneath it, and what it does when that fails or hangs.
import { describe, expect, it } from 'vitest';
import { deadlineOf } from '../../../lib/core/session-record.interface.js';
import { SessionStoreUnavailableError, type ExpiredSession, type SessionStore } from '../../../lib/index.js';
import { describeSessionStore } from '../../../lib/testing/index.js';
import { edit, listAll, mustCreate, mustGet, newId, newSession } from '../../../lib/testing/kit.js';
import { ManualClock } from '../../support/manual-clock.js';
import { waitFor } from '../../support/wait-for.js';
import { deferred, settled } from '../harness.js';
import { MapRecordStore } from './map-record-store.js';

describeSessionStore({ describe, it }, 'RecordSessionStore over a Map', async () => {
  const clock = new ManualClock();
  return { store: new MapRecordStore({ clock }), advance: (ms) => clock.advance(ms) };
});

describeSessionStore({ describe, it }, 'RecordSessionStore over a Map, with a peer', async () => {
  const store = new MapRecordStore();
  return { store, peer: new MapRecordStore({}, store.texts) };
});

/** Long enough for what does not hang, on a machine that is busy. */
const TIMEOUT_MS = 150;
const hang = (): Promise<void> => new Promise(() => undefined);

const operations: [string, (store: SessionStore, id: string) => Promise<unknown>, boolean][] = [
  ['create()', (store) => store.create(newSession()), true],
  ['set()', async (store, id) => store.set(edit((await store.get(id))!.record, 'x')), true],
  ['touch()', (store, id) => store.touch(id, 0), true],
  ['destroy()', (store, id) => store.destroy(id), true],
  ['move()', async (store, id) => store.move((await store.get(id))!.record, newSession()), true],
  ['clear()', (store) => store.clear(), true],
];

class Sweeping extends MapRecordStore {
  override sweep(onExpired: (session: ExpiredSession) => void, _: number, isStopped: () => boolean) {
    return this.removeExpired(onExpired, isStopped);
  }
}

describe('RecordSessionStore', () => {
  it.each([0, -1, 1.5, Number.NaN, '10'])(
    'the constructor refuses timeoutMs %s and names it',
    (timeoutMs) => {
      expect(() => new MapRecordStore({ timeoutMs: timeoutMs as number })).toThrow(
        expect.objectContaining({ name: 'SessionArgumentError', argument: 'timeoutMs' }),
      );
    },
  );

  it('writeRecord() is told from when on the record may be forgotten', async () => {
    const store = new MapRecordStore();
    const { record } = await mustCreate(store, { idleTimeout: 1_000 });
    expect(store.journal).toContain(`deadline ${record.createdAt + 1_000}`);
    await mustCreate(store, { idleTimeout: 0, absoluteTimeout: 0 });
    expect(store.journal).toContain('deadline Infinity');
  });

  it.each([
    ...operations.map(([name, call]) => [name, call] as const),
    ['get()', (store: SessionStore, id: string) => store.get(id)] as const,
    ['all()', (store: SessionStore) => listAll(store)] as const,
    ['length()', (store: SessionStore) => store.length()] as const,
  ])('%s over a read that hangs is refused after timeoutMs, and nothing was changed', async (_, call) => {
    const store = new MapRecordStore({ timeoutMs: TIMEOUT_MS });
    const { record } = await mustCreate(store);
    const before = new Map(store.texts);
    store.obstacle = (operation) => (operation === 'read' || operation === 'next' ? hang() : undefined);
    const began = performance.now();
    await expect(call(store, record.id)).rejects.toMatchObject({
      name: 'SessionStoreUnavailableError',
      code: 'SESSION_STORE_UNAVAILABLE',
      outcomeUnknown: false,
      message: expect.stringContaining(`no answer within ${TIMEOUT_MS} ms`),
    });
    expect(performance.now() - began).toBeGreaterThanOrEqual(TIMEOUT_MS - 2);
    expect(store.texts).toEqual(before);
  });

  it.each(operations)('%s over a write that hangs is refused, outcome unknown', async (_, call) => {
    const store = new MapRecordStore({ timeoutMs: TIMEOUT_MS });
    const { record } = await mustCreate(store);
    store.obstacle = (operation) => (operation === 'write' || operation === 'remove' ? hang() : undefined);
    await expect(call(store, record.id)).rejects.toMatchObject({
      name: 'SessionStoreUnavailableError',
      outcomeUnknown: true,
    });
  });

  it.each(operations)(
    '%s over a write that fails is refused with the cause, outcome unknown',
    async (_, call) => {
      const store = new MapRecordStore();
      const { record } = await mustCreate(store);
      const cause = new Error('disk full');
      store.obstacle = (operation) => {
        if (operation === 'write' || operation === 'remove') throw cause;
      };
      await expect(call(store, record.id)).rejects.toMatchObject({
        name: 'SessionStoreUnavailableError',
        outcomeUnknown: true,
        cause,
      });
    },
  );

  it('what fails before a promise is made is refused in the same way, of every method beneath', async () => {
    const cause = new Error('not connected');
    const fail = () => {
      throw cause;
    };
    class Broken extends MapRecordStore {
      override readRecord = fail;
      override records = fail;
    }
    const store = new Broken();
    for (const call of [() => store.get(newId(null)), () => listAll(store), () => store.create(newSession())])
      await expect(call()).rejects.toMatchObject({ name: 'SessionStoreUnavailableError', cause });
  });

  it('an error of our own from beneath passes as it is', async () => {
    const store = new MapRecordStore();
    const own = new SessionStoreUnavailableError('read', 'it is down', false);
    store.obstacle = () => {
      throw own;
    };
    await expect(store.get(newId(null))).rejects.toBe(own);
  });

  it('after a failure or an answer that came too late the store works on', async () => {
    const store = new MapRecordStore({ timeoutMs: TIMEOUT_MS });
    const { record } = await mustCreate(store);
    store.obstacle = () => Promise.reject(new Error('once'));
    await expect(store.set(edit(record, 'x'))).rejects.toThrow();
    const late = deferred<void>();
    store.obstacle = () => late.promise;
    await expect(store.get(record.id)).rejects.toThrow();
    late.resolve();
    store.obstacle = () => undefined;
    expect(await mustGet(store, record.id)).toEqual(record);
    expect((await store.set(edit(record, 'y'))).status).toBe('written');
  });

  it('a write that was given up on but still arrives never overwrites one that came after it', async () => {
    const store = new MapRecordStore({ timeoutMs: TIMEOUT_MS });
    const { record } = await mustCreate(store);
    const late = deferred<void>();
    store.obstacle = (operation) => (operation === 'write' ? late.promise : undefined);
    await expect(store.set(edit(record, 'late'))).rejects.toMatchObject({ outcomeUnknown: true });
    store.obstacle = () => undefined;
    // Whoever comes meanwhile is not let past it, and told so in time.
    await expect(store.set(edit(record, 'too soon'))).rejects.toMatchObject({
      outcomeUnknown: false,
      message: expect.stringContaining('writes before it did not end'),
    });
    const waiting = store.set(edit(record, 'after'));
    late.resolve();
    const result = await waiting;
    expect(result).toMatchObject({ status: 'conflict', record: { data: 'late' } });
    if (result.status !== 'conflict') return;
    expect((await store.set(edit(result.record, 'after'))).status).toBe('written');
    await settled();
    expect((await mustGet(store, record.id)).data).toBe('after');
  });

  it('a session that was ended while a write of it hung does not come back when the write arrives', async () => {
    const store = new MapRecordStore({ timeoutMs: TIMEOUT_MS });
    const { record } = await mustCreate(store);
    const late = deferred<void>();
    store.obstacle = (operation) => (operation === 'write' ? late.promise : undefined);
    await expect(store.touch(record.id, 0)).rejects.toThrow();
    const ending = store.destroy(record.id);
    late.resolve();
    expect(await ending).toBe(true);
    await settled();
    expect(await store.get(record.id)).toBeNull();
  });

  it('writes of one session take turns in order of their calls, those of two do not wait for each other', async () => {
    const store = new MapRecordStore();
    const [a, b] = [(await mustCreate(store)).record, (await mustCreate(store)).record];
    const gate = deferred<void>();
    store.obstacle = (operation, id) => (operation === 'write' && id === a.id ? gate.promise : undefined);
    const order: string[] = [];
    const first = store.set(edit(a, 'first')).then(({ status }) => order.push(`a1 ${status}`));
    const second = store.set(edit(a, 'second')).then(({ status }) => order.push(`a2 ${status}`));
    const third = store.destroy(a.id).then((wasLive) => order.push(`a3 ${wasLive}`));
    await store.set(edit(b, 'other')).then(({ status }) => order.push(`b ${status}`));
    gate.resolve();
    await Promise.all([first, second, third]);
    expect(order).toEqual(['b written', 'a1 written', 'a2 conflict', 'a3 true']);
  });

  it('move() ends the old record before it writes the new one', async () => {
    const store = new MapRecordStore();
    const { record } = await mustCreate(store);
    store.journal.length = 0;
    const next = newSession();
    await store.move(record, next);
    expect(store.journal.filter((line) => /^(write|remove) (?!done)/.test(line))).toEqual([
      `remove ${record.id}`,
      `write ${next.id}`,
    ]);
  });

  it('all() that its reader leaves, and one whose next record fails, close what they go through', async () => {
    const store = new MapRecordStore();
    for (let i = 0; i < 3; i++) await mustCreate(store);
    for await (const _ of store.all()) break;
    expect(store.journal).toContain('iterator closed');
    store.journal.length = 0;
    store.obstacle = () => Promise.reject(new Error('gone away'));
    await expect(listAll(store)).rejects.toMatchObject({ name: 'SessionStoreUnavailableError' });
    expect(store.journal).toContain('iterator closed');
  });

  it('all() over records that hang closes them once they answer, and does not wait for that', async () => {
    const store = new MapRecordStore({ timeoutMs: TIMEOUT_MS });
    await mustCreate(store);
    const late = deferred<void>();
    store.obstacle = () => late.promise;
    await expect(listAll(store)).rejects.toMatchObject({ name: 'SessionStoreUnavailableError' });
    expect(store.journal).not.toContain('iterator closed');
    late.resolve();
    await waitFor(() => store.journal.includes('iterator closed'));
  });

  it('removeExpired() removes what has expired, tells of each once, and stops when told to', async () => {
    const clock = new ManualClock();
    const store = new Sweeping({ clock });
    const { record: live } = await mustCreate(store);
    const ids: string[] = [];
    for (let i = 0; i < 5; i++)
      ids.push((await mustCreate(store, { userId: 'ann', idleTimeout: 1_000 })).record.id);
    clock.advance(1_001);
    expect(ids.every((id) => deadlineOf(JSON.parse(store.texts.get(id)!)) <= clock.wall())).toBe(true);
    const told: ExpiredSession[] = [];
    await store.sweep(
      (session) => told.push(session),
      1_000,
      () => told.length === 2,
    );
    expect(told).toHaveLength(2);
    await store.sweep(
      (session) => told.push(session),
      1_000,
      () => false,
    );
    expect(told.map(({ id }) => id).sort()).toEqual(ids.sort());
    expect(told[0]).toMatchObject({ userId: 'ann', metadata: live.metadata });
    expect([...store.texts.keys()]).toEqual([live.id]);
  });

  it('removeExpired() spares a session that was created under the expired id meanwhile', async () => {
    const clock = new ManualClock();
    const store = new Sweeping({ clock });
    const { record } = await mustCreate(store, { idleTimeout: 1_000 });
    clock.advance(1_001);
    const gate = deferred<void>();
    store.obstacle = (operation) => (operation === 'write' ? gate.promise : undefined);
    const creating = store.create(newSession({ id: record.id, data: 'new' }));
    const told: ExpiredSession[] = [];
    const sweeping = store.sweep(
      (session) => told.push(session),
      1_000,
      () => false,
    );
    await waitFor(() => store.journal.includes('next done'));
    gate.resolve();
    await Promise.all([creating, sweeping]);
    expect((await mustGet(store, record.id)).data).toBe('new');
    expect(told).toEqual([]);
  });
});

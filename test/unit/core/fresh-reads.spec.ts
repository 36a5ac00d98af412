// What get({ fresh: true }) and reload() ask the store for, and how remembered absence ends: several processes over one
// memory store, wired as SessionModule does it. Shown to fail when a fresh read takes the copy, and when a create of
// another process is not told.
import { describe, expect, it, onTestFinished } from 'vitest';
import type { NewSession } from '../../../lib/core/session-store.js';
import { generateToken } from '../../../lib/core/session-token.js';
import { SessionArgumentError } from '../../../lib/errors/caller.errors.js';
import { SessionGoneError, SessionStoreUnavailableError } from '../../../lib/errors/state.errors.js';
import type { SessionModuleOptions } from '../../../lib/options/session-options.interface.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { ManualClock } from '../../support/manual-clock.js';
import { deferred, mustLoad, openCore, settled } from '../harness.js';

/** Counts reads, and holds them back while told to. */
class ReadCountingStore extends MemorySessionStore {
  reads = 0;
  gate: Promise<void> | undefined;
  failing = false;

  override async get(id: string) {
    this.reads++;
    const loaded = await super.get(id); // what the store says now, told when the gate opens
    await this.gate;
    if (this.failing) throw new SessionStoreUnavailableError('get', 'it is down for this test', false);
    return loaded;
  }
}

const GIVEN = 'a-token-given-by-the-app-0123456789';

function openProcesses(options: SessionModuleOptions = {}) {
  const clock = new ManualClock();
  const store = new ReadCountingStore({ clock });
  const [one, other] = [openCore(options, { clock, store }), openCore(options, { clock, store })];
  for (const { cache } of [one, other]) {
    const end = store.onChange((id, version) => cache.invalidate(id, version));
    onTestFinished(() => end());
  }
  return { clock, store, one, other };
}

describe('get() with fresh: true', () => {
  it('reads the store although there is a copy, and puts what it read in the place of it', async () => {
    const { store, one } = openProcesses();
    const { token, id } = await one.sessions.create({ n: 1 });
    expect((await one.sessions.get(token))?.source).toBe('cache');
    expect(store.reads).toBe(0);
    for (let i = 1; i <= 3; i++) {
      expect(await one.sessions.get(token, { fresh: true })).toMatchObject({ id, source: 'store' });
      expect(store.reads).toBe(i);
    }
    expect((await one.sessions.get(token))?.source).toBe('cache');
  });

  it('sees a change that was never told, and everybody sees it from then on', async () => {
    const { clock, store } = openProcesses();
    const [deaf, writer] = [openCore({}, { clock, store }), openCore({}, { clock, store })];
    const { token } = await deaf.sessions.create({ n: 1 });
    await writer.sessions.update(token, { n: 2 });
    expect((await deaf.sessions.get(token))?.data).toEqual({ n: 1 });
    expect((await deaf.sessions.get(token, { fresh: true }))?.data).toEqual({ n: 2 });
    expect(await deaf.sessions.get(token)).toMatchObject({ source: 'cache', data: { n: 2 } });
    await writer.sessions.destroy(token);
    expect(await deaf.sessions.get(token)).not.toBeNull();
    expect(await deaf.sessions.get(token, { fresh: true })).toBeNull();
    expect(await deaf.sessions.get(token)).toBeNull();
  });

  it('does not join a read that had begun before it', async () => {
    const { store, one } = openProcesses();
    const { token } = await one.sessions.create({ n: 1 });
    one.cache.clear();
    const gate = deferred<void>();
    store.gate = gate.promise;
    const plain = [one.sessions.get(token), one.sessions.get(token)];
    await settled();
    expect(store.reads).toBe(1);
    const fresh = one.sessions.get(token, { fresh: true });
    await settled();
    expect(store.reads).toBe(2);
    gate.resolve();
    const found = await Promise.all([...plain, fresh]);
    expect(new Set(found.map((session) => session!.data)).size).toBe(3);
  });

  it('rejects while the store is down, though there is a copy; fresh: false and no options give the copy', async () => {
    const { store, one } = openProcesses();
    const { token } = await one.sessions.create({ n: 1 });
    store.failing = true;
    await expect(one.sessions.get(token, { fresh: true })).rejects.toThrow(SessionStoreUnavailableError);
    for (const options of [{ fresh: false }, {}, undefined, { fresh: undefined as unknown as boolean }])
      expect((await one.sessions.get(token, options))?.source).toBe('cache');
  });

  it('is null for a token that is unknown or malformed, and asks for the unknown one each time', async () => {
    const { store, one } = openProcesses();
    const unknown = generateToken(3);
    for (let i = 1; i <= 3; i++) {
      expect(await one.sessions.get(unknown, { fresh: true })).toBeNull();
      expect(store.reads).toBe(i);
    }
    for (const token of ['garbage', undefined, {}])
      expect(await one.sessions.get(token, { fresh: true })).toBeNull();
    expect(store.reads).toBe(3);
  });

  it.each([
    ['a string', { fresh: 'true' }, 'options.fresh'],
    ['a number', { fresh: 1 }, 'options.fresh'],
    ['null', { fresh: null }, 'options.fresh'],
    ['an unknown option', { frehs: true }, 'frehs'],
    ['an option of another method', { keepExpiry: true }, 'keepExpiry'],
  ])('%s is refused with the name of the argument, and nothing is read', async (_what, options, argument) => {
    const { store, one } = openProcesses();
    const { token } = await one.sessions.create();
    const error = await one.sessions.get(token, options as never).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SessionArgumentError);
    expect((error as SessionArgumentError).argument).toContain(argument);
    expect(store.reads).toBe(0);
  });
});

describe('reload()', () => {
  it('reads the store although there is a copy, refills it, and drops unsaved changes', async () => {
    const { clock, store } = openProcesses();
    const [deaf, writer] = [openCore({}, { clock, store }), openCore({}, { clock, store })];
    const session = await deaf.sessions.create({ n: 1 });
    session.data.n = 99;
    await writer.sessions.update(session.token, { n: 2 });
    await session.reload();
    expect(session).toMatchObject({ source: 'store', data: { n: 2 } });
    expect(store.reads).toBe(2); // the writer's and this one
    expect(await deaf.sessions.get(session.token)).toMatchObject({ source: 'cache', data: { n: 2 } });
    await writer.sessions.destroy(session.token);
    await expect(session.reload()).rejects.toThrow(SessionGoneError);
    expect(session.valid).toBe(false);
    expect(await deaf.sessions.get(session.token)).toBeNull();
  });
});

describe('parallel misses of one token', () => {
  it('are one read, and each caller gets data of its own', async () => {
    const { store, one } = openProcesses();
    const { token } = await one.sessions.create({ cart: { items: [1] } });
    one.cache.clear();
    const found = await Promise.all(Array.from({ length: 50 }, () => mustLoad(one.sessions, token)));
    expect(store.reads).toBe(1);
    expect(found.every(({ source }) => source === 'store')).toBe(true);
    const carts = found.map(({ data }) => data.cart as { items: number[] });
    carts.forEach((cart, i) => cart.items.push(i + 2));
    expect(carts.map(({ items }) => items)).toEqual(Array.from({ length: 50 }, (_, i) => [1, i + 2]));
    expect((await mustLoad(one.sessions, token)).data).toEqual({ cart: { items: [1] } });
    expect(one.cache.stats().sharedMisses).toBe(49);
  });

  it('all reject when the read does, and all find it when the store is back', async () => {
    const { store, one } = openProcesses();
    const { token } = await one.sessions.create({ n: 1 });
    one.cache.clear();
    store.failing = true;
    const outcomes = await Promise.allSettled(Array.from({ length: 20 }, () => one.sessions.get(token)));
    expect(outcomes.every(({ status }) => status === 'rejected')).toBe(true);
    expect(store.reads).toBe(1);
    store.failing = false;
    const found = await Promise.all(Array.from({ length: 20 }, () => one.sessions.get(token)));
    expect(found.every((session) => session?.data.n === 1)).toBe(true);
  });

  it('one that comes after a write of another process reads what was written, though an older read is under way', async () => {
    const { store, one, other } = openProcesses();
    const { token } = await one.sessions.create({ n: 1 });
    one.cache.clear();
    const gate = deferred<void>();
    store.gate = gate.promise;
    const before = one.sessions.get(token);
    await settled();
    store.gate = undefined;
    await other.sessions.update(token, { n: 2 });
    expect((await one.sessions.get(token))?.data).toEqual({ n: 2 });
    gate.resolve();
    expect((await before)?.data).toEqual({ n: 1 }); // it had asked before the write
    expect(await one.sessions.get(token)).toMatchObject({ source: 'cache', data: { n: 2 } });
  });

  it('one that comes after an own write or end does too', async () => {
    const { store, one } = openProcesses();
    const { token } = await one.sessions.create({ n: 1 });
    one.cache.clear();
    const gate = deferred<void>();
    store.gate = gate.promise;
    const before = one.sessions.get(token);
    await settled();
    store.gate = undefined;
    await one.sessions.destroy(token);
    expect(await one.sessions.get(token)).toBeNull();
    gate.resolve();
    await before;
    expect(await one.sessions.get(token)).toBeNull();
  });
});

describe('a shared read that is overtaken', () => {
  it('is asked again by those who only joined it, once the end of the session is known', async () => {
    const { store, one, other } = openProcesses();
    const { token } = await one.sessions.create({ n: 1 });
    one.cache.clear();
    const gate = deferred<void>();
    store.gate = gate.promise;
    const first = one.sessions.get(token);
    const joined = one.sessions.get(token);
    await settled();
    expect(store.reads).toBe(1);
    await other.sessions.destroy(token);
    gate.resolve();
    expect(await first).not.toBeNull(); // its own read, of before
    expect(await joined).toBeNull();
    expect(store.reads).toBe(2);
  });
});

describe('a token that was remembered as unknown', () => {
  it('is found at once when another process creates it', async () => {
    const { store, one, other } = openProcesses({ allowGivenTokens: true });
    for (let i = 0; i < 3; i++) expect(await one.sessions.get(GIVEN)).toBeNull();
    expect(store.reads).toBe(1);
    await other.sessions.create({ n: 1 }, { token: GIVEN });
    expect((await one.sessions.get(GIVEN))?.data).toEqual({ n: 1 });
  });

  it('is found at once when this process creates it, before and after the copy has gone', async () => {
    const { one } = openProcesses({ allowGivenTokens: true });
    expect(await one.sessions.get(GIVEN)).toBeNull();
    await one.sessions.create({ n: 1 }, { token: GIVEN });
    expect((await one.sessions.get(GIVEN))?.source).toBe('cache');
    one.cache.clear();
    expect((await one.sessions.get(GIVEN))?.source).toBe('store');
  });

  it('is found at once when it is created while its absence is being read', async () => {
    const { store, one, other } = openProcesses({ allowGivenTokens: true });
    const gate = deferred<void>();
    store.gate = gate.promise;
    const before = one.sessions.get(GIVEN);
    await settled();
    store.gate = undefined;
    await other.sessions.create({ n: 1 }, { token: GIVEN });
    gate.resolve();
    expect(await before).toBeNull(); // it had asked before
    expect((await one.sessions.get(GIVEN))?.data).toEqual({ n: 1 });
  });

  it('is found at once when this process creates it while its absence is being read, though the store tells nothing', async () => {
    const clock = new ManualClock();
    const gate = deferred<void>();
    class SilentStore extends ReadCountingStore {
      override async create(session: NewSession) {
        await settled(); // a read that begins now is answered before this is done
        return super.create(session);
      }
    }
    const store = new SilentStore({ clock });
    const { sessions } = openCore({ allowGivenTokens: true }, { clock, store });
    store.gate = gate.promise;
    const creating = sessions.create({ n: 1 }, { token: GIVEN });
    const before = sessions.get(GIVEN);
    await creating;
    store.gate = undefined;
    gate.resolve();
    expect(await before).toBeNull(); // it had asked before
    expect((await sessions.get(GIVEN))?.data).toEqual({ n: 1 });
  });

  it('is found at once when it is ended and created again', async () => {
    const { one, other } = openProcesses({ allowGivenTokens: true });
    for (let n = 0; n < 3; n++) {
      await other.sessions.create({ n }, { token: GIVEN });
      expect((await one.sessions.get(GIVEN))?.data).toEqual({ n });
      await other.sessions.destroy(GIVEN);
      expect(await one.sessions.get(GIVEN)).toBeNull();
      expect(await one.sessions.get(GIVEN)).toBeNull();
    }
  });

  it('is found after 5 s at the latest when nobody told of it', async () => {
    const clock = new ManualClock();
    const store = new ReadCountingStore({ clock });
    const options = { allowGivenTokens: true };
    const [deaf, other] = [openCore(options, { clock, store }), openCore(options, { clock, store })];
    expect(await deaf.sessions.get(GIVEN)).toBeNull();
    await other.sessions.create({ n: 1 }, { token: GIVEN });
    clock.advance(4_999);
    expect(await deaf.sessions.get(GIVEN)).toBeNull();
    clock.advance(1);
    expect((await deaf.sessions.get(GIVEN))?.data).toEqual({ n: 1 });
  });

  it('is refused by writes, which say so, and by touch() and destroy()', async () => {
    const { one } = openProcesses();
    const unknown = generateToken(3);
    expect(await one.sessions.get(unknown)).toBeNull();
    await expect(one.sessions.update(unknown, { n: 1 })).rejects.toThrow(SessionGoneError);
    await expect(one.sessions.regenerate(unknown)).rejects.toThrow(SessionGoneError);
    expect(await one.sessions.touch(unknown)).toBeNull();
    expect(await one.sessions.destroy(unknown)).toBe(false);
  });

  it('with cache: false every get() reads the store', async () => {
    const { store, one } = openProcesses({ cache: false });
    for (let i = 1; i <= 3; i++) {
      expect(await one.sessions.get(generateToken(1))).toBeNull();
      expect(store.reads).toBe(i);
    }
  });
});

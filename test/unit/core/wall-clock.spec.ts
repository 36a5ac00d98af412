// What a wall clock that is wrong, or is set while the process runs, does to sessions of a store with a clock of its own,
// as Redis has: nothing. The same with real processes and a real Redis: test/integration/wall-clock.integration-spec.ts.
//
// Shown to fail when times that are shown or stored are counted with the leaping clock, when what becomes due is counted
// with the steady one, and when deadlines of copies are.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { ActiveSession } from '../../../lib/core/active-session.js';
import type { SessionStore } from '../../../lib/core/session-store.js';
import { DiskSessionStore } from '../../../lib/disk-store/index.js';
import type { SessionModuleOptions } from '../../../lib/options/session-options.interface.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { mustCreate } from '../../../lib/testing/kit.js';
import { ManualClock } from '../../support/manual-clock.js';
import { HOUR, MINUTE, mustLoad, openCore, SECOND, type Data } from '../harness.js';
import { MapRecordStore } from './map-record-store.js';

const JUMPS = [
  ['an hour forward', HOUR],
  ['an hour back', -HOUR],
] as const;

/** A process, and a store whose clock is another machine's. */
function openProcess(options: SessionModuleOptions = {}, { wrongBy = 0 } = {}) {
  const storeClock = new ManualClock(Date.UTC(2031, 5, 5));
  const clock = new ManualClock(Date.UTC(2031, 5, 5) + wrongBy);
  const store = new MemorySessionStore({ clock: storeClock });
  const gets = vi.spyOn(store, 'get');
  const touches = vi.spyOn(store, 'touch');
  return {
    ...openCore(options, { clock, store }),
    storeClock,
    gets,
    touches,
    /** Time goes by on both machines. */
    pass: (ms: number) => {
      storeClock.advance(ms);
      clock.advance(ms);
    },
  };
}

describe.each(JUMPS)('a wall clock set %s', (_name, jump) => {
  it('ends no session and prolongs none: it is refused when its time is up by the store’s clock', async () => {
    const { sessions, clock, pass } = openProcess({ idleTimeout: '10m', touchInterval: '60s' });
    const { token } = await sessions.create({ n: 1 });
    pass(9 * MINUTE);
    clock.jump(jump);
    pass(59 * SECOND);
    expect(await sessions.get(token)).toMatchObject({ data: { n: 1 } });
    pass(SECOND);
    expect(await sessions.get(token)).toBeNull();
  });

  it('a copy is served neither beyond its session’s life nor beyond maxAge', async () => {
    const { sessions, cache, clock, pass } = openProcess({ cache: { maxAge: '60s' } });
    const short = await sessions.create({}, { idleTimeout: 10 * SECOND });
    const long = await sessions.create({});
    pass(5 * SECOND);
    clock.jump(jump);
    pass(5 * SECOND);
    expect(cache.get(short.token)).toBeUndefined();
    pass(50 * SECOND);
    expect(cache.get(long.token)).toBeUndefined();
  });

  it('a session that is held shows the life it has', async () => {
    const { sessions, clock, pass } = openProcess({ idleTimeout: '10m' });
    const session = await sessions.create({});
    pass(4 * MINUTE);
    const before = [session.expiresAt, session.createdAt, session.lastAccess];
    clock.jump(jump);
    expect([session.expiresIn, session.idle, session.valid]).toEqual([6 * MINUTE, 4 * MINUTE, true]);
    expect([session.expiresAt, session.createdAt, session.lastAccess]).toEqual(before);
    pass(6 * MINUTE);
    expect([session.expiresIn, session.valid]).toEqual([0, false]);
  });

  it('keeps nobody from touching: a session in use lives on, by as much as it would have', async () => {
    const { sessions, storeClock, clock, pass } = openProcess({ idleTimeout: '10m', touchInterval: '60s' });
    const { token } = await sessions.create({});
    const held = await mustLoad(sessions, token);
    pass(61 * SECOND);
    clock.jump(jump);
    expect(await held.touch()).toBe(true);
    expect(held.lastAccess).toBe(storeClock.wall());
    expect(held.expiresIn).toBe(10 * MINUTE);
  });

  it('a touch that is not due is not written, whoever takes it for due', async () => {
    const { sessions, touches, clock, pass } = openProcess({ touchInterval: '60s' });
    const { token } = await sessions.create({});
    const held = await mustLoad(sessions, token);
    const { lastAccess } = held;
    pass(10 * SECOND);
    clock.jump(jump);
    await held.touch();
    await held.touch();
    // Forward: the store is asked once, says no, and its clock is known again.
    expect(touches).toHaveBeenCalledTimes(jump > 0 ? 1 : 0);
    expect((await mustLoad(sessions, token)).lastAccess).toBe(lastAccess);
  });

  it('dates no login in the future, and lets no login count for longer than it does', async () => {
    const { sessions, storeClock, clock, pass } = openProcess();
    const session = await sessions.create({}, { userId: 'ada' });
    pass(MINUTE);
    clock.jump(jump);
    await session.reauthenticated();
    expect(session.lastAuthenticatedAt).toBe(storeClock.wall());
    pass(5 * MINUTE);
    expect(session.authenticatedWithin(5 * MINUTE)).toBe(true);
    pass(1);
    expect(session.authenticatedWithin(5 * MINUTE)).toBe(false);
  });

  it('a login counts for as long as it does, once the store has been heard', async () => {
    const { sessions, clock, pass } = openProcess();
    const { token } = await sessions.create({}, { userId: 'ada' });
    pass(4 * MINUTE);
    clock.jump(jump);
    const session = await mustLoad(sessions, token);
    expect(session.authenticatedWithin(5 * MINUTE)).toBe(true);
    pass(MINUTE + 1);
    expect(session.authenticatedWithin(5 * MINUTE)).toBe(false);
  });

  it('a token is due for replacement when it is, once the store has been heard', async () => {
    const { sessions, storeClock, clock, pass } = openProcess({ rotateEvery: '15m' });
    const { token } = await sessions.create({});
    pass(14 * MINUTE);
    clock.jump(jump);
    let session: ActiveSession<Data> = await mustLoad(sessions, token);
    expect(sessions.rotationIsDue(session)).toBe(false);
    pass(MINUTE);
    expect(sessions.rotationIsDue(session)).toBe(true);
    clock.jump(jump);
    await session.rotate();
    expect(session.metadata).toMatchObject({ rotatedAt: storeClock.wall() });
    pass(14 * MINUTE);
    session = await mustLoad(sessions, session.token);
    expect(sessions.rotationIsDue(session)).toBe(false);
    pass(MINUTE);
    expect(sessions.rotationIsDue(session)).toBe(true);
  });

  it('an unknown token is remembered for 5 s and no longer', async () => {
    const { sessions, gets, clock, pass } = openProcess();
    const token = 'A'.repeat(44);
    expect(await sessions.get(token)).toBeNull();
    pass(4 * SECOND);
    clock.jump(jump);
    pass(SECOND);
    gets.mockClear();
    expect(await sessions.get(token)).toBeNull();
    expect(gets).toHaveBeenCalledTimes(1);
  });

  it('lists by activity show who was active by the store’s clock', async () => {
    const { sessions, registry, storeClock, clock, pass } = openProcess();
    const idle = await sessions.create({}, { userId: 'ada' });
    pass(10 * MINUTE);
    clock.jump(jump);
    const active = await sessions.create({}, { userId: 'bob' });
    pass(MINUTE);
    const ids = async (activeWithin: number) => {
      const { sessions: found } = await registry.getAllSessions({ activeWithin });
      return found.map(({ id }) => id).toSorted();
    };
    expect(await ids(5 * MINUTE)).toEqual([active.id]);
    expect(await ids(11 * MINUTE)).toEqual([active.id, idle.id].toSorted());
    expect(await registry.count({ activeWithin: 5 * MINUTE })).toBe(1);
    expect(await registry.now()).toBe(storeClock.wall());
    const [shown] = await registry.getUserSessions('ada');
    expect(shown).toMatchObject({ idle: 11 * MINUTE, createdAt: idle.createdAt });
  });
});

describe.each(JUMPS)('a process whose wall clock is wrong from the start, by %s', (_name, wrongBy) => {
  it('a session of a visitor that is not stored has its whole life before it, also when the store is first heard', async () => {
    const { sessions, pass } = openProcess({ idleTimeout: '10m' }, { wrongBy });
    const visitor = sessions.unstored({ onUse: () => undefined, metadata: () => ({}) });
    expect([visitor.expiresIn, visitor.idle, visitor.valid]).toEqual([10 * MINUTE, 0, true]);
    pass(SECOND);
    await sessions.create({});
    expect([visitor.expiresIn, visitor.idle, visitor.valid]).toEqual([10 * MINUTE, 0, true]);
  });

  it('a session has its times from the store, which every other process sees too', async () => {
    const { sessions, store, storeClock, pass } = openProcess({ idleTimeout: '10m' }, { wrongBy });
    const { token, createdAt, expiresAt, expiresIn } = await sessions.create({ n: 1 });
    expect([createdAt, expiresAt, expiresIn]).toEqual([
      storeClock.wall(),
      storeClock.wall() + 10 * MINUTE,
      10 * MINUTE,
    ]);
    const right = openCore({ idleTimeout: '10m' }, { clock: storeClock, store });
    expect(await right.sessions.get(token)).toMatchObject({ createdAt, expiresAt, expiresIn });
    pass(10 * MINUTE - 1);
    expect(await sessions.get(token)).not.toBeNull();
    expect(await right.sessions.get(token)).not.toBeNull();
    pass(1);
    expect(await sessions.get(token)).toBeNull();
    expect(await right.sessions.get(token)).toBeNull();
  });
});

describe('a machine that was suspended, its steady clock standing still', () => {
  it('what had become due meanwhile is due at once: touch, replacement, another proof of who the user is', async () => {
    const { sessions, storeClock, clock, pass } = openProcess({
      idleTimeout: '30m',
      touchInterval: '10m',
      rotateEvery: '15m',
    });
    const session = await sessions.create({}, { userId: 'ada' });
    pass(MINUTE);
    storeClock.advance(20 * MINUTE);
    clock.jump(20 * MINUTE);
    expect(session.authenticatedWithin(5 * MINUTE)).toBe(false);
    expect(sessions.rotationIsDue(session)).toBe(true);
    expect(await session.touch()).toBe(true);
    expect(session.lastAccess).toBe(storeClock.wall());
  });

  it('copies are not served from before it, and a session that ended meanwhile is refused', async () => {
    const { sessions, cache, storeClock, clock } = openProcess({ idleTimeout: '30m' });
    const { token } = await sessions.create({});
    expect(cache.get(token)).toBeDefined();
    storeClock.advance(31 * MINUTE);
    clock.jump(31 * MINUTE);
    expect(cache.get(token)).toBeUndefined();
    expect(await sessions.get(token)).toBeNull();
  });
});

describe.each([
  ['MemorySessionStore', (clock: ManualClock) => new MemorySessionStore({ clock })],
  ['DiskSessionStore', (clock: ManualClock, path: string) => new DiskSessionStore({ path, clock })],
  ['RecordSessionStore', (clock: ManualClock) => new MapRecordStore({ clock })],
] as const)(
  '%s, whose clock is this process’s own: a jump is time that passed, or comes again',
  (_name, make) => {
    let home: string;
    let clock: ManualClock;
    let store: SessionStore;
    beforeEach(async () => {
      home = mkdtempSync(join(tmpdir(), 'sessionkit-clock-'));
      clock = new ManualClock();
      store = make(clock, join(home, 'sessions'));
      await store.open?.();
    });
    afterEach(async () => {
      await store.close?.();
      rmSync(home, { recursive: true });
    });

    it('forward ends sessions early, by as much', async () => {
      const { id } = (await mustCreate(store, { idleTimeout: 90 * MINUTE })).record;
      clock.jump(HOUR);
      clock.advance(30 * MINUTE - 1);
      expect(await store.get(id)).not.toBeNull();
      clock.advance(1);
      expect(await store.get(id)).toBeNull();
    });

    it('back prolongs them, by as much, and no write is lost over it', async () => {
      const { record: base } = await mustCreate(store, { idleTimeout: 30 * MINUTE });
      clock.jump(-HOUR);
      const written = await store.set({ base, data: '{"n":1}', keepExpiry: true });
      expect(written).toMatchObject({ status: 'written', record: { data: '{"n":1}' } });
      if (written.status === 'written') expect(written.record.version).toBeGreaterThan(base.version);
      clock.advance(90 * MINUTE - 1);
      expect(await store.get(base.id)).not.toBeNull();
      clock.advance(1);
      expect(await store.get(base.id)).toBeNull();
    });
  },
);

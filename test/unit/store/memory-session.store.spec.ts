import { Logger } from '@nestjs/common';
import { describe, expect, it, vi } from 'vitest';
import { SessionArgumentError } from '../../../lib/errors/caller.errors.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { describeSessionStore } from '../../../lib/testing/index.js';
import { mustCreate, newSession } from '../../../lib/testing/kit.js';
import { ManualClock } from '../../support/manual-clock.js';
import { waitFor } from '../../support/wait-for.js';

describeSessionStore({ describe, it }, 'MemorySessionStore', async () => {
  const clock = new ManualClock();
  const store = new MemorySessionStore({ clock });
  await store.open();
  return { store, advance: (ms) => clock.advance(ms), close: () => store.close() };
});

describe('MemorySessionStore', () => {
  it.each([0, -1, 1.5, Number.NaN, Infinity, '10'])(
    'the constructor refuses maxSessions %s and names it',
    (maxSessions) => {
      expect(() => new MemorySessionStore({ maxSessions: maxSessions as number })).toThrow(
        expect.objectContaining({ name: 'SessionArgumentError', argument: 'maxSessions' }),
      );
      expect(() => new MemorySessionStore({ maxSessions: maxSessions as number })).toThrow(
        String(maxSessions),
      );
      expect(() => new MemorySessionStore({ maxSessions: maxSessions as number })).toThrow(
        SessionArgumentError,
      );
    },
  );

  it('create() beyond maxSessions ends the least recently used session, in its user’s list too, and warns once', async () => {
    const warn = vi.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
    const store = new MemorySessionStore({ maxSessions: 3, clock: new ManualClock() });
    const [a, b, c] = [
      await mustCreate(store, { userId: 'ann' }),
      await mustCreate(store, { userId: 'ann' }),
      await mustCreate(store, { userId: 'ann' }),
    ].map(({ record }) => record.id) as [string, string, string];
    await store.get(a);
    await mustCreate(store, { userId: 'bob' });
    expect(await store.get(b)).toBeNull();
    expect((await store.userSessions('ann')).records.map(({ id }) => id).sort()).toEqual([a, c].sort());
    await mustCreate(store, { userId: 'bob' });
    expect(await store.length()).toBe(3);
    expect(warn).toHaveBeenCalledTimes(1);
    expect(warn.mock.calls[0]?.[0]).toMatch(/maxSessions of 3/);
  });

  it('looking at lists is no use of sessions: the least recently used one still makes room', async () => {
    vi.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
    for (const look of [
      (store: MemorySessionStore) => store.list({ limit: 10 }),
      (store: MemorySessionStore) => store.listUsers({ limit: 10 }),
      (store: MemorySessionStore) => store.countActive(0),
      (store: MemorySessionStore) => store.userSessions('ann'),
      (store: MemorySessionStore) => store.length(),
    ]) {
      const store = new MemorySessionStore({ maxSessions: 3, clock: new ManualClock() });
      const [a, b, c] = [
        (await mustCreate(store, { userId: 'ann' })).record.id,
        (await mustCreate(store, { userId: 'ann' })).record.id,
        (await mustCreate(store, { userId: 'ann' })).record.id,
      ];
      await look(store);
      await mustCreate(store, { userId: 'bob' });
      expect([await store.get(a), (await store.get(b))?.record.id, (await store.get(c))?.record.id]).toEqual([
        null,
        b,
        c,
      ]);
    }
  });

  it('open() removes expired sessions by itself, so that they take no live one’s place; close() stops that', async () => {
    vi.useFakeTimers();
    try {
      const clock = new ManualClock();
      const store = new MemorySessionStore({ maxSessions: 2, clock });
      await store.open();
      const live = await mustCreate(store);
      await mustCreate(store, { idleTimeout: 100 }); // used more recently than the live one
      clock.advance(101);
      await vi.advanceTimersByTimeAsync(2_500);
      await mustCreate(store);
      expect(await store.get(live.record.id)).not.toBeNull();
      await store.close();
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  it('sessions that live 10 s, 1000 made each second: sweep() tells of each once, and within 20 s of its end', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
    try {
      const clock = new ManualClock();
      const store = new MemorySessionStore({ clock });
      await store.open();
      const told = new Map<string, number>();
      let made = 0;
      for (let second = 0; second < 45; second++) {
        for (let n = 0; n < 1_000; n++)
          await store.create({ ...newSession({ id: '' }), id: `s${made++}`, idleTimeout: 10_000 });
        clock.advance(1_000);
        vi.advanceTimersByTime(1_000);
        await store.sweep(({ id }) => void told.set(id, (told.get(id) ?? 0) + 1));
      }
      // The last ones to be told of by now: they have been over for 20 s.
      const over = Array.from({ length: (45 - 10 - 20) * 1_000 }, (_, n) => `s${n}`);
      expect(over.filter((id) => !told.has(id))).toEqual([]);
      expect(Math.max(...told.values())).toBe(1);
      await store.close();
    } finally {
      vi.useRealTimers();
    }
  });

  it('works by the clock of this process unless told otherwise', async () => {
    const store = new MemorySessionStore();
    const before = Date.now();
    const { record } = await mustCreate(store, { idleTimeout: 30 });
    expect(record.createdAt).toBeGreaterThanOrEqual(before);
    await waitFor(async () => (await store.get(record.id)) === null);
    expect(Date.now()).toBeGreaterThanOrEqual(record.createdAt + 30);
  });
});

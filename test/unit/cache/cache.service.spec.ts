import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CacheService } from '../../../lib/cache/cache.service.js';
import type { SessionRecord } from '../../../lib/core/session-record.interface.js';
import type { LoadedSession } from '../../../lib/core/session-store.js';
import { SessionEvents, type CacheStats } from '../../../lib/events/session-events.js';
import { resolveSessionOptions } from '../../../lib/options/resolve-session-options.js';
import type { SessionCacheOptions } from '../../../lib/options/session-options.interface.js';
import { ManualClock } from '../../support/manual-clock.js';
import { deferred, ManualSource, settled, type Deferred } from '../harness.js';

function openCache(options: SessionCacheOptions | false = {}) {
  const clock = new ManualClock();
  const source = new ManualSource();
  const events = new SessionEvents();
  const cache = new CacheService(resolveSessionOptions({ cache: options }).cache, source, events, clock);
  const record = (name: string, parts: Partial<SessionRecord> = {}): SessionRecord => ({
    id: `id-${name}`,
    userId: null,
    version: 10,
    createdAt: clock.wall(),
    lastAccess: clock.wall(),
    idleTimeout: 30 * 60_000,
    absoluteDeadline: 0,
    metadata: {},
    data: '{}',
    ...parts,
  });
  const fill = (name: string, parts: Partial<SessionRecord> = {}) => {
    const one = record(name, parts);
    return cache.set(cache.reserve(one.id), name, { record: one, now: clock.wall() });
  };
  return { clock, source, events, cache, record, fill };
}

describe('CacheService: serving', () => {
  it('get() returns the record that set() stored, and counts hits and misses', () => {
    const { cache, fill } = openCache();
    expect(cache.get('a')).toBeUndefined();
    expect(fill('a')).toBe(true);
    expect(cache.get('a')).toMatchObject({ id: 'id-a', version: 10 });
    expect(cache.stats()).toMatchObject({ entries: 1, hits: 1, misses: 1, writes: 1, refusedFills: 0 });
  });

  it('get() returns nothing while the source is not live, and the copy again when nothing was missed', () => {
    const { cache, source, fill } = openCache();
    fill('a');
    source.live = false;
    expect(cache.get('a')).toBeUndefined();
    source.live = true;
    expect(cache.get('a')).toBeDefined();
  });

  it('a new epoch makes every copy void, for peek() too', () => {
    const { cache, source, fill } = openCache();
    fill('a');
    source.epoch++;
    expect(cache.get('a')).toBeUndefined();
    expect(cache.peek('a')).toBeUndefined();
    expect(fill('a')).toBe(true);
    expect(cache.get('a')).toBeDefined();
  });

  it('with cache: false nothing is stored, and stats() counts no refused fills', () => {
    const { cache, fill } = openCache(false);
    expect(cache.enabled).toBe(false);
    expect(fill('a')).toBe(false);
    expect(cache.get('a')).toBeUndefined();
    expect(cache.stats()).toMatchObject({ entries: 0, writes: 0, refusedFills: 0 });
  });
});

describe('CacheService: how long a copy is served', () => {
  it('maxAge bounds it, counted from before the store was asked', () => {
    const { cache, clock, record } = openCache({ maxAge: 10_000 });
    const ticket = cache.reserve('id-a');
    clock.advance(4_000); // a slow read
    cache.set(ticket, 'a', { record: record('a'), now: clock.wall() });
    clock.advance(5_999);
    expect(cache.get('a')).toBeDefined();
    clock.advance(1);
    expect(cache.get('a')).toBeUndefined();
  });

  it('what is left of the session’s life bounds it, and a slow read does not prolong it', () => {
    const { cache, clock, record } = openCache();
    const ticket = cache.reserve('id-a');
    const now = clock.wall(); // the store looked at its clock, then the reply took 3 s
    clock.advance(3_000);
    cache.set(ticket, 'a', { record: record('a', { lastAccess: now - 25_000, idleTimeout: 30_000 }), now });
    // One millisecond less than the 5 s that were left: the store's clock is cut to whole ones.
    clock.advance(1_998);
    expect(cache.get('a')).toBeDefined();
    clock.advance(1);
    expect(cache.get('a')).toBeUndefined();
  });

  it('ttlRatio shortens the share of the remaining life, not maxAge', () => {
    const { cache, clock, fill } = openCache({ ttlRatio: 0.5, maxAge: 60_000 });
    fill('short', { idleTimeout: 20_000 });
    fill('long', { idleTimeout: 3_600_000 });
    clock.advance(9_999);
    expect(cache.get('short')).toBeDefined();
    clock.advance(1);
    expect(cache.get('short')).toBeUndefined();
    clock.advance(49_999);
    expect(cache.get('long')).toBeDefined();
    clock.advance(1);
    expect(cache.get('long')).toBeUndefined();
  });

  it('the absolute deadline counts where it is the nearer one, and an immortal session has maxAge', () => {
    const { cache, clock, fill } = openCache({ maxAge: 60_000 });
    fill('ends', { absoluteDeadline: clock.wall() + 5_000 });
    fill('immortal', { idleTimeout: 0, absoluteDeadline: 0 });
    clock.advance(5_000);
    expect(cache.get('ends')).toBeUndefined();
    clock.advance(54_999);
    expect(cache.get('immortal')).toBeDefined();
    clock.advance(1);
    expect(cache.get('immortal')).toBeUndefined();
  });

  it('a record that had already expired when it was read is not served', () => {
    const { cache, clock, fill } = openCache();
    fill('a', { lastAccess: clock.wall() - 40_000, idleTimeout: 30_000 });
    expect(cache.get('a')).toBeUndefined();
  });

  it('refresh() after a touch prolongs the copy of that version from before the touch was sent', () => {
    const { cache, clock, fill } = openCache({ maxAge: 60_000 });
    fill('a', { idleTimeout: 10_000 });
    clock.advance(8_000);
    const sentAt = clock.monotonic();
    const lastAccess = clock.wall();
    clock.advance(1_000);
    cache.refresh('a', sentAt, { version: 10, lastAccess, now: lastAccess });
    expect(cache.get('a')).toMatchObject({ lastAccess });
    clock.advance(8_998);
    expect(cache.get('a')).toBeDefined();
    clock.advance(1);
    expect(cache.get('a')).toBeUndefined();
  });

  it('refresh() never prolongs a copy beyond maxAge from its read: what others changed unheard is seen by then', () => {
    const { cache, clock, fill } = openCache({ maxAge: 10_000 });
    fill('a');
    for (let second = 0; second < 9; second++) {
      clock.advance(1_000);
      const now = clock.wall();
      cache.refresh('a', clock.monotonic(), { version: 10, lastAccess: now, now });
    }
    clock.advance(999);
    expect(cache.get('a')).toBeDefined();
    clock.advance(1);
    expect(cache.get('a')).toBeUndefined();
  });

  it('refresh() by a touch that met another version, or in another epoch, changes nothing', () => {
    const { cache, clock, source, fill } = openCache({ maxAge: 10_000 });
    fill('a');
    const before = cache.get('a');
    clock.advance(9_000);
    const touched = { lastAccess: clock.wall(), now: clock.wall() };
    cache.refresh('a', clock.monotonic(), { version: 11, ...touched });
    expect(cache.get('a')).toBe(before);
    source.epoch++;
    cache.refresh('a', clock.monotonic(), { version: 10, ...touched });
    source.epoch--;
    expect(cache.get('a')).toBe(before);
    clock.advance(1_000);
    expect(cache.get('a')).toBeUndefined();
    cache.refresh('unknown', clock.monotonic(), { version: 10, ...touched });
  });

  it('what get() handed out never changes, and has the fields of a record and no others', () => {
    const { cache, clock, fill, record } = openCache();
    const filled = record('a', {
      userId: 'ann',
      absoluteDeadline: clock.wall() + 3_600_000,
      data: '{"n":1}',
    });
    cache.set(cache.reserve('id-a'), 'a', { record: filled, now: clock.wall() });
    const first = cache.get('a')!;
    clock.advance(1_000);
    const now = clock.wall();
    cache.refresh('a', clock.monotonic(), { version: 10, lastAccess: now, now });
    const second = cache.get('a')!;
    clock.advance(1_000);
    fill('a', { lastAccess: clock.wall() }); // a strict read of the same version
    expect([first.lastAccess, second.lastAccess, cache.get('a')!.lastAccess]).toEqual([
      filled.lastAccess,
      now,
      now + 1_000,
    ]);
    for (const one of [first, second])
      expect({ ...one }).toStrictEqual({ ...filled, lastAccess: one.lastAccess });
    expect(JSON.parse(JSON.stringify(first))).toEqual(filled);
  });

  it('load() hands out the copy it has stored, and what was read where none was stored', async () => {
    const { cache, source, clock, record } = openCache();
    const read = async () => ({ record: record('a'), now: clock.wall() });
    const stored = await cache.load('a', 'id-a', read, true);
    expect(stored).toMatchObject({ source: 'store', own: { record: { version: 10 } } });
    expect(stored!.record).toBe(cache.get('a'));
    const overtaken = await cache.load(
      'a',
      'id-a',
      async () => {
        source.announce('id-a', 11);
        return read();
      },
      true,
    );
    expect(overtaken!.record).toBe(overtaken!.own!.record);
    expect(cache.get('a')).toBeUndefined();
  });

  it('load() that may not store hands out what it has read, not the copy of an older use that is still there', async () => {
    const { cache, source, clock, record, fill } = openCache();
    fill('a');
    source.live = false; // the lease has lapsed, and nothing has ended the epoch yet
    clock.advance(60_000);
    const touched = record('a');
    const found = await cache.load('a', 'id-a', async () => ({ record: touched, now: clock.wall() }), true);
    expect(found!.record).toBe(touched);
  });

  it('other data of the same version takes the place of the copy', () => {
    const { cache, fill } = openCache();
    fill('a', { data: '{"n":1}' });
    fill('a', { data: '{"n":22}' });
    expect(cache.get('a')?.data).toBe('{"n":22}');
    expect(cache.stats()).toMatchObject({ entries: 1, bytes: 8, writes: 2 });
    cache.clear();
    expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0 });
  });
});

describe('CacheService: guarded fills', () => {
  /** Each comes between the read’s start and its answer, which carries version 10. */
  const between: Record<string, (world: ReturnType<typeof openCache>) => void> = {
    'an invalidation of a higher version': ({ source }) => source.announce('id-a', 11),
    'the end of the session': ({ source }) => source.announce('id-a', Infinity),
    'delete() of the session': ({ cache }) => cache.delete('id-a'),
    'a new epoch': ({ source }) => source.epoch++,
    'the loss of the link': ({ source }) => (source.live = false),
    'a write of this process': ({ cache }) => cache.release(cache.reserveForWrite('id-a')),
    'clear()': ({ cache }) => cache.clear(),
  };
  it.each(Object.entries(between))('a fill is refused after %s', (_, happen) => {
    const world = openCache();
    const { cache, record, source } = world;
    const ticket = cache.reserve('id-a');
    happen(world);
    expect(cache.set(ticket, 'a', { record: record('a'), now: world.clock.wall() })).toBe(false);
    source.live = true;
    expect(cache.get('a')).toBeUndefined();
    expect(cache.stats()).toMatchObject({ entries: 0, refusedFills: 1, writes: 0 });
  });

  it('a fill is refused when the source was not live at its start, though it is now', () => {
    const { cache, source, record, clock } = openCache();
    source.live = false;
    const ticket = cache.reserve('id-a');
    source.live = true;
    expect(cache.set(ticket, 'a', { record: record('a'), now: clock.wall() })).toBe(false);
  });

  it('a fill is granted after invalidations of its own version, of older ones and of other sessions', () => {
    const { cache, source, record, clock } = openCache();
    const ticket = cache.reserve('id-a');
    for (const [id, version] of [
      ['id-a', 9],
      ['id-a', 10],
      ['id-b', 99],
      ['id-b', Infinity],
    ] as const)
      source.announce(id, version);
    expect(cache.set(ticket, 'a', { record: record('a'), now: clock.wall() })).toBe(true);
  });

  it('an older invalidation that comes late does not lower the bar', () => {
    const { cache, source, record, clock } = openCache();
    const ticket = cache.reserve('id-a');
    source.announce('id-a', 12);
    source.announce('id-a', 9);
    expect(cache.set(ticket, 'a', { record: record('a', { version: 11 }), now: clock.wall() })).toBe(false);
  });

  it('a ticket is good for one fill', () => {
    const { cache, record, clock } = openCache();
    const ticket = cache.reserve('id-a');
    const loaded = { record: record('a'), now: clock.wall() };
    expect(cache.set(ticket, 'a', loaded)).toBe(true);
    expect(cache.set(ticket, 'a', loaded)).toBe(false);
    const unused = cache.reserve('id-a');
    cache.release(unused);
    cache.release(unused);
    expect(cache.set(unused, 'a', loaded)).toBe(false);
  });

  it('parallel reads of one session have tickets of their own, and one invalidation voids them all', () => {
    const { cache, source, record, clock } = openCache();
    const tickets = [cache.reserve('id-a'), cache.reserve('id-a'), cache.reserve('id-a')];
    cache.release(tickets[0]!);
    source.announce('id-a', 11);
    const later = cache.reserve('id-a');
    const loaded = { record: record('a'), now: clock.wall() };
    expect(tickets.map((ticket) => cache.set(ticket, 'a', loaded))).toEqual([false, false, false]);
    expect(cache.set(later, 'a', { ...loaded, record: record('a', { version: 11 }) })).toBe(true);
  });

  it('an older record never replaces a newer copy', () => {
    const { cache, record, clock } = openCache();
    const slow = cache.reserve('id-a');
    const quick = cache.reserve('id-a');
    expect(cache.set(quick, 'a', { record: record('a', { version: 20 }), now: clock.wall() })).toBe(true);
    expect(cache.set(slow, 'a', { record: record('a', { version: 19 }), now: clock.wall() })).toBe(false);
    expect(cache.get('a')?.version).toBe(20);
  });

  it('reserveForWrite() drops the copy at once; its own ticket may store what was written', () => {
    const { cache, fill, record, clock } = openCache();
    fill('a');
    const ticket = cache.reserveForWrite('id-a');
    expect(cache.get('a')).toBeUndefined();
    expect(cache.set(ticket, 'a', { record: record('a', { version: 11 }), now: clock.wall() })).toBe(true);
    expect(cache.get('a')?.version).toBe(11);
  });
});

/** Where `load()` reads: each answer comes when the test lets it. */
function openReads(world: ReturnType<typeof openCache>) {
  const pending: Deferred<LoadedSession | null>[] = [];
  return {
    get started() {
      return pending.length;
    },
    load: (name = 'a', fresh = false) =>
      world.cache.load(
        name,
        `id-${name}`,
        () => {
          const read = deferred<LoadedSession | null>();
          pending.push(read);
          return read.promise;
        },
        fresh,
      ),
    /** Lets the oldest read that is under way bring this. */
    answer: (record: SessionRecord | null) =>
      pending.shift()!.resolve(record && { record, now: world.clock.wall() }),
    fail: (error: Error) => pending.shift()!.reject(error),
  };
}

describe('CacheService: shared misses', () => {
  it('load() of one token by many at once is one read, and each gets its record', async () => {
    const world = openCache();
    const reads = openReads(world);
    const loads = [reads.load(), reads.load(), reads.load()];
    await settled();
    expect(reads.started).toBe(1);
    reads.answer(world.record('a'));
    const found = await Promise.all(loads);
    expect(found.map((one) => one?.record.id)).toEqual(['id-a', 'id-a', 'id-a']);
    expect(found.map((one) => one?.source)).toEqual(['store', 'store', 'store']);
    // Decoded data is only the reader's own: the others must not get objects that somebody else holds.
    expect(found.map((one) => one?.own !== null)).toEqual([true, false, false]);
    expect(world.cache.stats()).toMatchObject({ sharedMisses: 2, writes: 1, entries: 1, refusedFills: 0 });
  });

  it('load() of different tokens shares nothing', async () => {
    const world = openCache();
    const reads = openReads(world);
    const loads = [reads.load('a'), reads.load('b')];
    await settled();
    expect(reads.started).toBe(2);
    reads.answer(world.record('a'));
    reads.answer(world.record('b'));
    expect((await Promise.all(loads)).map((one) => one?.record.id)).toEqual(['id-a', 'id-b']);
    expect(world.cache.stats().sharedMisses).toBe(0);
  });

  it('load() after the read has ended begins a new one', async () => {
    const world = openCache();
    const reads = openReads(world);
    const first = reads.load();
    await settled();
    reads.answer(world.record('a'));
    await first;
    world.cache.clear();
    const second = reads.load();
    await settled();
    expect(reads.started).toBe(1);
    reads.answer(world.record('a', { version: 11 }));
    expect((await second)?.record.version).toBe(11);
  });

  it('absence is shared, and a rejection reaches all; the next one asks again', async () => {
    const world = openCache();
    const reads = openReads(world);
    const failing = [reads.load(), reads.load(), reads.load()].map((load) =>
      load.catch((error: unknown) => error),
    );
    await settled();
    const broken = new Error('no store');
    reads.fail(broken);
    expect(await Promise.all(failing)).toEqual([broken, broken, broken]);
    const absent = [reads.load(), reads.load()];
    await settled();
    expect(reads.started).toBe(1);
    reads.answer(null);
    expect(await Promise.all(absent)).toEqual([null, null]);
  });

  /** Each makes what is being read too old for whoever comes after it. */
  const tooOld: Record<string, (world: ReturnType<typeof openCache>) => void> = {
    'a write of this process': ({ cache }) => cache.release(cache.reserveForWrite('id-a')),
    'an invalidation, even of an older version': ({ source }) => source.announce('id-a', 1),
    'the end of the session': ({ source }) => source.announce('id-a', Infinity),
    'delete()': ({ cache }) => cache.delete('id-a'),
    'clear()': ({ cache }) => cache.clear(),
    'a new epoch': ({ source }) => source.epoch++,
    'the loss of the lease': ({ source }) => (source.live = false),
  };
  it.each(Object.entries(tooOld))('load() does not join a read begun before %s', async (_, happen) => {
    const world = openCache();
    const reads = openReads(world);
    const old = reads.load();
    await settled();
    happen(world);
    const later = reads.load();
    await settled();
    expect(reads.started).toBe(2);
    reads.answer(world.record('a', { version: 10 }));
    reads.answer(world.record('a', { version: 12 }));
    expect((await old)?.record.version).toBe(10);
    expect((await later)?.record.version).toBe(12);
    expect(world.cache.stats().sharedMisses).toBe(0);
  });

  it('load() joins a read over an invalidation of another session', async () => {
    const world = openCache();
    const reads = openReads(world);
    const first = reads.load();
    await settled();
    world.source.announce('id-b', Infinity);
    const second = reads.load();
    await settled();
    expect(reads.started).toBe(1);
    reads.answer(world.record('a'));
    expect(await Promise.all([first, second])).toHaveLength(2);
  });

  it('load() joins the newer read where an older one is still under way', async () => {
    const world = openCache();
    const reads = openReads(world);
    const old = reads.load();
    await settled();
    world.source.announce('id-a', 11);
    const newer = reads.load();
    await settled();
    reads.answer(world.record('a', { version: 10 })); // the older one ends first, and must not take the newer away
    await old;
    const joined = reads.load();
    await settled();
    expect(reads.started).toBe(1);
    reads.answer(world.record('a', { version: 11 }));
    expect((await newer)?.record.version).toBe(11);
    expect((await joined)?.record.version).toBe(11);
    expect(world.cache.stats().sharedMisses).toBe(1);
  });

  it('load() with fresh joins nobody, and others may join it', async () => {
    const world = openCache();
    const reads = openReads(world);
    const plain = reads.load();
    await settled();
    const fresh = reads.load('a', true);
    await settled();
    expect(reads.started).toBe(2);
    const joined = reads.load();
    await settled();
    expect(reads.started).toBe(2);
    reads.answer(world.record('a', { version: 10 }));
    reads.answer(world.record('a', { version: 11 }));
    expect((await plain)?.record.version).toBe(10);
    expect((await fresh)?.record.version).toBe(11);
    expect((await joined)?.record.version).toBe(11);
  });

  it('nothing is shared while the source is not live, nor with cache: false', async () => {
    for (const world of [openCache(), openCache(false)]) {
      world.source.live = false;
      const reads = openReads(world);
      const loads = [reads.load(), reads.load()];
      await settled();
      expect(reads.started).toBe(2);
      reads.answer(null);
      reads.answer(null);
      await Promise.all(loads);
    }
  });
});

describe('CacheService: unknown tokens', () => {
  const absent = async (world: ReturnType<typeof openCache>, name = 'a') => {
    let asked = 0;
    const found = await world.cache.load(
      name,
      `id-${name}`,
      async () => {
        asked++;
        return null;
      },
      false,
    );
    expect(found).toBeNull();
    return asked;
  };

  it('load() asks for one once in 5 s, counted from before the store was asked', async () => {
    const world = openCache();
    const reads = openReads(world);
    const first = reads.load();
    await settled();
    world.clock.advance(2_000); // a slow answer
    reads.answer(null);
    await first;
    world.clock.advance(2_999);
    expect(await absent(world)).toBe(0);
    expect(world.cache.stats()).toMatchObject({ unknownHits: 1, entries: 0, writes: 0, refusedFills: 0 });
    world.clock.advance(1);
    expect(await absent(world)).toBe(1);
    expect(await absent(world)).toBe(0);
  });

  it('a hit does not prolong it', async () => {
    const world = openCache();
    await absent(world);
    for (let i = 0; i < 4; i++) {
      world.clock.advance(1_000);
      expect(await absent(world)).toBe(0);
    }
    world.clock.advance(1_000);
    expect(await absent(world)).toBe(1);
  });

  it('at most 4,096 are remembered; the one that was not asked for the longest is forgotten first', async () => {
    const world = openCache();
    for (let i = 0; i < 4_096; i++) await absent(world, `t${i}`);
    expect(await absent(world, 't0')).toBe(0);
    await absent(world, 'one more');
    expect(await absent(world, 't0')).toBe(0);
    expect(await absent(world, 't2')).toBe(0);
    expect(await absent(world, 't1')).toBe(1);
  });

  it('load() with fresh asks all the same', async () => {
    const world = openCache();
    await absent(world);
    const reads = openReads(world);
    const fresh = reads.load('a', true);
    await settled();
    expect(reads.started).toBe(1);
    reads.answer(world.record('a'));
    expect(await fresh).not.toBeNull();
  });

  const forgotten: Record<string, (world: ReturnType<typeof openCache>) => void> = {
    'an invalidation of it': ({ source }) => source.announce('id-a', 1),
    'the end of it': ({ source }) => source.announce('id-a', Infinity),
    'delete()': ({ cache }) => cache.delete('id-a'),
    'clear()': ({ cache }) => cache.clear(),
    'a new epoch': ({ source }) => source.epoch++,
    'the loss of the lease': ({ source }) => (source.live = false),
    'a create by this process': ({ cache }) => cache.release(cache.reserveForWrite('id-a')),
  };
  it.each(Object.entries(forgotten))('%s makes load() ask again', async (_, happen) => {
    const world = openCache();
    await absent(world);
    await absent(world, 'b');
    happen(world);
    expect(await absent(world)).toBe(1);
  });

  it('what is told of another session does not', async () => {
    const world = openCache();
    await absent(world);
    world.source.announce('id-b', Infinity);
    expect(await absent(world)).toBe(0);
  });

  /** Between the read and its answer: the absence may be over. */
  it.each(Object.entries(forgotten))('an absence read before %s is not remembered', async (_, happen) => {
    const world = openCache();
    const reads = openReads(world);
    const loading = reads.load();
    await settled();
    happen(world);
    reads.answer(null);
    expect(await loading).toBeNull();
    world.source.live = true;
    expect(await absent(world)).toBe(1);
  });

  it('nothing is remembered while the source is not live, nor by a lease that came during the read', async () => {
    const world = openCache();
    world.source.live = false;
    expect(await absent(world)).toBe(1);
    const reads = openReads(world);
    const loading = reads.load();
    await settled();
    world.source.live = true;
    reads.answer(null);
    await loading;
    expect(await absent(world)).toBe(1);
    expect(await absent(world)).toBe(0);
  });

  it('nothing is remembered with cache: false', async () => {
    const world = openCache(false);
    expect(await absent(world)).toBe(1);
    expect(await absent(world)).toBe(1);
    expect(world.cache.stats().unknownHits).toBe(0);
  });

  it('a fresh read that finds nothing drops the copy', async () => {
    const world = openCache();
    world.fill('a');
    expect(await world.cache.load('a', 'id-a', async () => null, true)).toBeNull();
    expect(world.cache.get('a')).toBeUndefined();
    expect(world.cache.stats()).toMatchObject({ entries: 0, bytes: 0 });
  });
});

describe('CacheService: the idle check', () => {
  const openShort = (count: number, options: SessionCacheOptions = {}) => {
    const world = openCache({ maxAge: 10_000, ...options });
    for (let i = 0; i < count; i++) world.fill(`s${i}`);
    world.clock.advance(10_000);
    return world;
  };

  it('dropExpired(30) four times drops 100 copies that are past their time', () => {
    const { cache } = openShort(100);
    expect(Array.from({ length: 4 }, () => cache.dropExpired(30))).toEqual([30, 30, 30, 10]);
    expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0, evictions: 0 });
    expect(cache.dropExpired(30)).toBe(0);
  });

  it('dropExpired() goes on where it ended: good copies at the front do not keep it from those behind', () => {
    const { cache, fill, clock } = openCache({ maxAge: 10_000 });
    for (let i = 0; i < 70; i++) fill(`good${i}`, { idleTimeout: 0 });
    for (let i = 0; i < 30; i++) fill(`short${i}`, { idleTimeout: 5_000 });
    clock.advance(6_000);
    expect(Array.from({ length: 4 }, () => cache.dropExpired(30))).toEqual([0, 0, 20, 10]);
    expect(cache.size).toBe(70);
    // And round again: it does not stay at the end.
    clock.advance(4_000);
    expect(Array.from({ length: 3 }, () => cache.dropExpired(30))).toEqual([30, 30, 10]);
  });

  it('dropExpired() drops copies of an earlier epoch, and none that may be served', () => {
    const { cache, source, fill } = openCache();
    fill('old');
    source.epoch++;
    fill('new');
    source.live = false; // a pause of the lease makes no copy void
    expect(cache.dropExpired(30)).toBe(1);
    source.live = true;
    expect(cache.get('new')).toBeDefined();
  });

  it('dropExpired() is not put off by what is set, replaced, dropped and evicted between its steps', () => {
    const { cache, source, fill, clock } = openShort(50, { maxEntries: 45 });
    const alive: string[] = [];
    for (let step = 0; step < 20; step++) {
      cache.dropExpired(1);
      fill(`x${step}`, { idleTimeout: 2 });
      alive.push(`n${step}`);
      fill(`n${step}`, { idleTimeout: 0 });
      if (step % 5 === 0) source.announce(`id-s${step}`, Infinity);
      if (step % 7 === 0) fill(`s${49 - step / 7}`, { version: 11 });
      clock.advance(1);
    }
    expect(cache.stats().evictions).toBeGreaterThan(5);
    for (let round = 0; round < 30; round++) cache.dropExpired(3);
    expect(alive.filter((name) => cache.get(name) === undefined)).toEqual([]);
    clock.advance(10_000);
    for (let round = 0; round < 30; round++) cache.dropExpired(3);
    expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0 });
  });

  it('dropExpired() after clear() begins anew', () => {
    const { cache, fill, clock } = openShort(10);
    cache.dropExpired(5);
    cache.clear();
    for (let i = 0; i < 3; i++) fill(`again${i}`);
    clock.advance(10_000);
    expect(cache.dropExpired(5)).toBe(3);
  });
});

describe('CacheService: statistics', () => {
  it('bytes go up with each copy, follow a replaced one, and come down to 0', () => {
    const { cache, source, fill } = openCache({ maxEntries: 3 });
    const bytes = () => cache.stats().bytes;
    fill('a', { data: '{"n":1}' });
    expect(bytes()).toBe(7);
    fill('b', { data: '{"name":"Zoë"}' });
    expect(bytes()).toBe(7 + 15);
    fill('a', { data: '{}', version: 11 });
    expect(bytes()).toBe(2 + 15);
    fill('c');
    fill('d'); // b was used the longest ago
    expect(cache.stats()).toMatchObject({ entries: 3, bytes: 6, evictions: 1 });
    source.announce('id-a', Infinity);
    expect(bytes()).toBe(4);
    cache.release(cache.reserveForWrite('id-c'));
    expect(bytes()).toBe(2);
    cache.clear();
    expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0, evictions: 1 });
  });

  it('maxBytes: the least recently used make room, and not one byte more is ever held', () => {
    const { cache, fill } = openCache({ maxEntries: 0, maxBytes: 10 });
    const held = () => ['a', 'b', 'c', 'd'].filter((name) => cache.peek(name) !== undefined);
    fill('a', { data: 'x'.repeat(4) });
    fill('b', { data: 'x'.repeat(6) });
    expect([held(), cache.stats()]).toMatchObject([['a', 'b'], { bytes: 10, evictions: 0 }]);
    cache.get('a');
    fill('c', { data: 'x' }); // b was used the longest ago
    expect([held(), cache.stats()]).toMatchObject([['a', 'c'], { bytes: 5, evictions: 1 }]);
    fill('c', { data: 'é'.repeat(3), version: 11 }); // counted in bytes, and in place of what it replaces
    expect([held(), cache.stats()]).toMatchObject([['a', 'c'], { bytes: 10, evictions: 1 }]);
    fill('d', { data: 'x'.repeat(10) });
    expect([held(), cache.stats()]).toMatchObject([['d'], { entries: 1, bytes: 10, evictions: 3 }]);
  });

  it('maxBytes: a session with more is not kept, and its older copy goes', () => {
    const { cache, fill } = openCache({ maxEntries: 0, maxBytes: 10 });
    fill('a', { data: 'x'.repeat(4) });
    fill('b', { data: 'x'.repeat(4) });
    fill('a', { data: 'x'.repeat(11), version: 11 });
    expect(cache.get('a')).toBeUndefined();
    expect(cache.get('b')).toBeDefined();
    expect(cache.stats()).toMatchObject({
      entries: 1,
      bytes: 4,
      skippedFills: 1,
      refusedFills: 0,
      evictions: 0,
    });
  });

  it('maxBytes and maxEntries: both hold, over any order of fills and ends (property)', () => {
    const step = fc.record({
      isEnd: fc.boolean(),
      name: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
      version: fc.integer({ min: 1, max: 20 }),
      length: fc.nat(60),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const { cache, source, fill } = openCache({ maxEntries: 3, maxBytes: 50 });
        for (const { isEnd, name, version, length } of steps) {
          if (isEnd) source.announce(`id-${name}`, version);
          else fill(name, { version, data: 'x'.repeat(length) });
          const { entries, bytes } = cache.stats();
          expect([entries <= 3, bytes >= 0, bytes <= 50]).toEqual([true, true, true]);
        }
        cache.clear();
        expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0 });
      }),
      { numRuns: 200 },
    );
  });

  it('bytes stay right over any order of fills, ends, writes, epochs and clears (property)', () => {
    const step = fc.record({
      kind: fc.constantFrom('fill', 'fill', 'fill', 'end', 'write', 'epoch', 'clear', 'check', 'late'),
      name: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
      version: fc.integer({ min: 1, max: 20 }),
      length: fc.nat(50),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const { cache, source, fill, clock } = openCache({ maxEntries: 3 });
        for (const { kind, name, version, length } of steps) {
          if (kind === 'fill') fill(name, { version, data: 'x'.repeat(length) });
          else if (kind === 'end') source.announce(`id-${name}`, version);
          else if (kind === 'write') cache.release(cache.reserveForWrite(`id-${name}`));
          else if (kind === 'epoch') source.epoch++;
          else if (kind === 'clear') cache.clear();
          else if (kind === 'check') cache.dropExpired(2);
          else clock.advance(40_000);
          expect(cache.size).toBeLessThanOrEqual(3);
          expect(cache.stats().bytes).toBeGreaterThanOrEqual(0);
        }
        source.epoch++;
        for (let i = 0; i < 3; i++) cache.dropExpired(2);
        expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0 });
      }),
      { numRuns: 300 },
    );
  });

  it('report() emits cacheReport with what stats() gives, and gives it back', () => {
    const { cache, events, fill } = openCache();
    const reports: CacheStats[] = [];
    events.on('cacheReport', (stats) => reports.push(stats));
    fill('a');
    cache.get('a');
    cache.get('b');
    const report = cache.report();
    expect(reports).toEqual([report]);
    expect(report).toEqual({
      entries: 1,
      bytes: 2,
      hits: 1,
      misses: 1,
      sharedMisses: 0,
      unknownHits: 0,
      writes: 1,
      refusedFills: 0,
      skippedFills: 0,
      evictions: 0,
      invalidations: 0,
    });
  });

  it('a refused fill is told to the source, which counts it too', () => {
    const { cache, source, record, clock } = openCache();
    const ticket = cache.reserve('id-a');
    source.announce('id-a', 11);
    cache.set(ticket, 'a', { record: record('a'), now: clock.wall() });
    expect(source.refusedFills).toBe(1);
  });

  it('close() forgets everything in silence', async () => {
    const { cache, events, fill } = openCache();
    const clears: unknown[] = [];
    events.on('cacheClear', (payload) => clears.push(payload));
    fill('a');
    await cache.close();
    expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0 });
    expect(clears).toEqual([]);
  });
});

describe('CacheService: forgetting', () => {
  it('an invalidation drops an older copy and leaves one of the same version or a newer one', () => {
    const { cache, source, fill } = openCache();
    fill('a');
    source.announce('id-a', 9);
    source.announce('id-a', 10);
    expect(cache.get('a')).toBeDefined();
    source.announce('id-a', 11);
    expect(cache.get('a')).toBeUndefined();
    fill('a', { version: 99 });
    source.announce('id-a', Infinity);
    expect(cache.get('a')).toBeUndefined();
    expect(cache.stats()).toMatchObject({ entries: 0, invalidations: 4 });
  });

  it('maxEntries: the least recently used copy makes room, and its id is forgotten with it', () => {
    const { cache, source, fill } = openCache({ maxEntries: 2 });
    fill('a');
    fill('b');
    cache.get('a');
    fill('c');
    expect(cache.get('b')).toBeUndefined();
    expect(cache.get('a')).toBeDefined();
    expect(cache.size).toBe(2);
    expect(cache.stats().evictions).toBe(1);
    source.announce('id-b', Infinity);
    source.announce('id-a', Infinity);
    expect(cache.size).toBe(1);
  });

  it('a copy that was served stays while no more than 7/8 of maxEntries are stored after that, whatever came between', () => {
    const max = 64;
    for (let readAfter = 0; readAfter < max; readAfter++) {
      const { cache, fill } = openCache({ maxEntries: max });
      const others = (name: string, count: number) => {
        for (let i = 0; i < count; i++) fill(`${name}${i}`);
      };
      others('before', max);
      fill('a');
      others('between', readAfter);
      expect(cache.get('a')).toBeDefined();
      others('after', (max * 7) / 8);
      expect(cache.peek('a')).toBeDefined();
      others('last', max / 8);
      expect(cache.peek('a')).toBeUndefined();
    }
  });

  it('refresh() and a strict read of the same version are its use, and count no bytes twice', () => {
    for (const renew of ['touch', 'read']) {
      const { cache, clock, fill } = openCache({ maxEntries: 2 });
      fill('a', { data: '{"n":1}' });
      fill('b');
      const now = clock.wall();
      if (renew === 'touch') cache.refresh('a', clock.monotonic(), { version: 10, lastAccess: now, now });
      else fill('a', { data: '{"n":1}' });
      expect(cache.stats()).toMatchObject({ entries: 2, bytes: 9, writes: 2 });
      fill('c');
      expect([cache.peek('a')?.id, cache.peek('b')]).toEqual(['id-a', undefined]);
      expect(cache.stats()).toMatchObject({ entries: 2, bytes: 9, evictions: 1 });
    }
  });

  it('a newer version in the place of an older copy is its use', () => {
    const { cache, fill } = openCache({ maxEntries: 2 });
    fill('a');
    fill('b');
    fill('a', { version: 11 });
    fill('c');
    expect([cache.peek('a')?.version, cache.peek('b')]).toEqual([11, undefined]);
    expect(cache.stats()).toMatchObject({ entries: 2, evictions: 1 });
  });

  it('one id is never held twice, whatever token it came by', () => {
    const { cache, clock, source, record } = openCache();
    for (const token of ['a', 'b'])
      cache.set(cache.reserve('id-a'), token, { record: record('a', { version: 10 }), now: clock.wall() });
    expect(cache.size).toBe(1);
    source.announce('id-a', Infinity);
    expect([cache.get('a'), cache.get('b'), cache.size]).toEqual([undefined, undefined, 0]);
  });

  it('maxEntries 0 is no limit', () => {
    const { cache, fill } = openCache({ maxEntries: 0 });
    for (let i = 0; i < 20_000; i++) fill(`s${i}`);
    expect(cache.size).toBe(20_000);
    expect(cache.get('s0')).toBeDefined();
    expect(cache.stats().evictions).toBe(0);
  });

  it('clear() forgets everything, tells the size, and emits cacheClear with it', () => {
    const { cache, events, fill } = openCache();
    const sizes: number[] = [];
    events.on('cacheClear', ({ size }) => sizes.push(size));
    fill('a');
    fill('b');
    expect(cache.clear()).toBe(2);
    expect(cache.clear()).toBe(0);
    expect(sizes).toEqual([2, 0]);
    expect(cache.size).toBe(0);
    expect(fill('a')).toBe(true);
  });

  it('cacheWrite is emitted with the public id for each copy stored, and for none refused', () => {
    const { cache, events, fill, record, clock } = openCache();
    const ids: string[] = [];
    events.on('cacheWrite', ({ id }) => ids.push(id));
    fill('secret-token');
    const ticket = cache.reserve('id-b');
    cache.delete('id-b');
    cache.set(ticket, 'b', { record: record('b'), now: clock.wall() });
    expect(ids).toEqual(['id-secret-token']);
  });
});

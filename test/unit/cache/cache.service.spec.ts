import { describe, expect, it } from 'vitest';
import { CacheService } from '../../../lib/cache/cache.service.js';
import type { SessionRecord } from '../../../lib/core/session-record.interface.js';
import { SessionEvents } from '../../../lib/events/session-events.js';
import { resolveSessionOptions } from '../../../lib/options/resolve-session-options.js';
import type { SessionCacheOptions } from '../../../lib/options/session-options.interface.js';
import { ManualClock } from '../../support/manual-clock.js';
import { ManualSource } from '../harness.js';

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
    const { cache, clock, fill } = openCache({ maxAge: 10_000 });
    fill('a');
    clock.advance(8_000);
    const sentAt = clock.monotonic();
    const lastAccess = clock.wall();
    clock.advance(1_000);
    cache.refresh('a', sentAt, { version: 10, lastAccess, now: lastAccess });
    expect(cache.get('a')).toMatchObject({ lastAccess });
    clock.advance(8_999);
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

// Copies beyond their time, for when the store cannot be asked: which of them, and until when.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CacheService } from '../../../lib/cache/cache.service.js';
import { FileCache } from '../../../lib/cache/file-cache.js';
import type { SessionRecord } from '../../../lib/core/session-record.interface.js';
import { SessionEvents } from '../../../lib/events/session-events.js';
import { resolveSessionOptions } from '../../../lib/options/resolve-session-options.js';
import { ManualClock } from '../../support/manual-clock.js';
import { ManualSource, MINUTE, SECOND, settled } from '../harness.js';

const STALE_FOR = 30 * SECOND;
const MAX_AGE = 60 * SECOND; // the default

describe('CacheService: stale copies', () => {
  let clock: ManualClock;
  let source: ManualSource;
  let cache: CacheService;
  let told: string[];
  let directory: string;

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'sessionkit-stale-'));
    build(null);
  });
  afterEach(async () => {
    await cache.close();
    rmSync(directory, { recursive: true, force: true });
  });

  function build(files: FileCache | null): void {
    clock = new ManualClock();
    source = new ManualSource();
    const events = new SessionEvents();
    told = [];
    events.on('staleRead', ({ id }) => void told.push(id));
    cache = new CacheService(resolveSessionOptions({}).cache, source, events, clock, files);
    cache.serveStale(STALE_FOR);
  }
  const record = (name: string, parts: Partial<SessionRecord> = {}): SessionRecord => ({
    id: `id-${name}`,
    userId: null,
    version: 10,
    createdAt: clock.wall(),
    lastAccess: clock.wall(),
    idleTimeout: 30 * MINUTE,
    absoluteDeadline: 0,
    metadata: {},
    data: '{"n":1}',
    ...parts,
  });
  function fill(name: string, parts: Partial<SessionRecord> = {}): boolean {
    const one = record(name, parts);
    return cache.set(cache.reserve(one.id), name, { record: one, now: clock.wall() });
  }
  const isServed = async (name: string): Promise<boolean> => (await cache.stale(name)) !== undefined;
  const lose = (): void => source.lose(clock.monotonic());
  /** Until when a copy is served, to the millisecond. */
  async function servedFor(name: string): Promise<number> {
    let low = 0;
    while (await isServed(name)) {
      clock.advance(500);
      low += 500;
    }
    return low;
  }

  it('after the link was lost a copy is served for staleFor, and never by get(), peek() or load()', async () => {
    fill('a');
    clock.advance(SECOND);
    lose();
    expect(await cache.stale('a')).toMatchObject({ id: 'id-a', data: '{"n":1}' });
    expect(cache.get('a')).toBeUndefined();
    expect(cache.peek('a')).toBeUndefined();
    expect(await cache.load('a', 'id-a', async () => null, false)).toBeNull();
    build(null);
    fill('a');
    lose();
    clock.advance(STALE_FOR - 1);
    expect(await isServed('a')).toBe(true);
    clock.advance(1);
    expect(await isServed('a')).toBe(false);
  });

  it('counted from when it could last have been served: its own maxAge, or what was proved', async () => {
    fill('a');
    clock.advance(MAX_AGE - SECOND);
    lose(); // a copy that would have been served for one more second
    expect(await servedFor('a')).toBe(STALE_FOR); // looked at every 500 ms, and no longer at the last of them
    build(null);
    fill('b');
    clock.advance(MAX_AGE + STALE_FOR - SECOND);
    lose(); // one that has not been served for a while
    expect(await servedFor('b')).toBeLessThanOrEqual(SECOND + 500);
  });

  it('while the lease still holds, and the store alone cannot be asked, too', async () => {
    fill('a');
    clock.advance(MAX_AGE + 1);
    expect(cache.get('a')).toBeUndefined();
    expect(await isServed('a')).toBe(true);
    clock.advance(STALE_FOR);
    expect(await isServed('a')).toBe(false);
  });

  it('never beyond the deadlines of the session itself, touched or not', async () => {
    fill('idle', { idleTimeout: 10 * SECOND });
    fill('absolute', { absoluteDeadline: clock.wall() + 5 * SECOND });
    fill('touched', { idleTimeout: 10 * SECOND });
    clock.advance(4 * SECOND);
    cache.refresh('touched', clock.monotonic(), {
      version: 10,
      lastAccess: clock.wall(),
      now: clock.wall(),
    });
    lose();
    expect(await isServed('absolute')).toBe(true);
    clock.advance(SECOND);
    expect(await isServed('absolute')).toBe(false);
    expect(await isServed('idle')).toBe(true);
    clock.advance(5 * SECOND);
    expect(await isServed('idle')).toBe(false);
    expect(await isServed('touched')).toBe(true);
    clock.advance(4 * SECOND);
    expect(await isServed('touched')).toBe(false);
  });

  it('to the millisecond: one less than the session has, for the store cuts its clock to whole ones', async () => {
    fill('a', { idleTimeout: 10 * SECOND });
    lose();
    clock.advance(10 * SECOND - 2);
    expect(await isServed('a')).toBe(true);
    clock.advance(1);
    expect(await isServed('a')).toBe(false);
  });

  it('a copy of an epoch before the last live one is never served: changes may have been missed in between', async () => {
    fill('a');
    lose();
    source.live = true; // a new epoch, in which nobody read it
    fill('b');
    expect(await isServed('a')).toBe(false);
    lose();
    expect(await isServed('a')).toBe(false);
    expect(await isServed('b')).toBe(true);
  });

  it('never once the session is known here to have ended or changed, whatever became of the link', async () => {
    for (const name of ['told', 'deleted', 'written', 'absent', 'newer', 'cleared']) fill(name);
    lose();
    source.announce('id-told', Infinity); // a message that came late
    cache.delete('id-deleted');
    cache.release(cache.reserveForWrite('id-written')); // whether it was written is not known
    expect(await cache.load('absent', 'id-absent', async () => null, false)).toBeNull();
    const newer = { record: record('newer', { version: 11 }), now: clock.wall() };
    expect(await cache.load('newer', 'id-newer', async () => newer, false)).not.toBeNull();
    for (const name of ['told', 'deleted', 'written', 'absent', 'newer'])
      expect([name, await isServed(name)]).toEqual([name, false]);
    expect(await isServed('cleared')).toBe(true);
    cache.clear();
    expect(await isServed('cleared')).toBe(false);
  });

  it('a read in the outage that finds the same version leaves it', async () => {
    fill('a');
    lose();
    await cache.load('a', 'id-a', async () => ({ record: record('a'), now: clock.wall() }), false);
    expect(await isServed('a')).toBe(true);
  });

  it('staleRead is told once for each session in an outage, and again in the next', async () => {
    fill('a');
    fill('b');
    lose();
    for (let count = 0; count < 5; count++) await cache.stale('a');
    await cache.stale('b');
    await cache.stale('c');
    expect(told).toEqual(['id-a', 'id-b']);
    source.live = true;
    fill('a');
    lose();
    await cache.stale('a');
    await cache.stale('a');
    expect(told).toEqual(['id-a', 'id-b', 'id-a']);
  });

  it('an outage of the store alone is over with the next read or touch that it answers', async () => {
    fill('a');
    for (const answer of [
      () => fill('a'), // the same version in the same epoch
      () =>
        cache.refresh('a', clock.monotonic(), { version: 10, lastAccess: clock.wall(), now: clock.wall() }),
    ]) {
      clock.advance(MAX_AGE + 1);
      await cache.stale('a');
      await cache.stale('a');
      answer();
    }
    expect(told).toEqual(['id-a', 'id-a']);
    await cache.stale('a');
    expect(told).toEqual(['id-a', 'id-a', 'id-a']);
  });

  it('a read that finds the same version used later counts its life from then', async () => {
    fill('a', { idleTimeout: 10 * SECOND });
    clock.advance(5 * SECOND);
    fill('a', { idleTimeout: 10 * SECOND });
    lose();
    clock.advance(9 * SECOND);
    expect(await isServed('a')).toBe(true);
    clock.advance(SECOND);
    expect(await isServed('a')).toBe(false);
  });

  it('where nobody asked for stale copies there are none', async () => {
    cache.serveStale(0);
    fill('a');
    lose();
    expect(await isServed('a')).toBe(false);
    expect(cache.dropExpired(10)).toBe(1);
  });

  it('the idle check leaves them until they are of no use', async () => {
    fill('a');
    lose();
    expect(cache.dropExpired(10)).toBe(0);
    clock.advance(STALE_FOR + 1);
    expect(cache.dropExpired(10)).toBe(1);
  });

  it('a copy in a file is read, and not served when the session ended meanwhile', async () => {
    const files = new FileCache(directory, JSON.stringify, JSON.parse as never, () => undefined, 5_000);
    build(files);
    await cache.open();
    fill('a');
    await new Promise((resolve) => setTimeout(resolve, 200)); // the file is being written
    for (let wait = 0; wait < 100 && files.writing > 0; wait++) await settled();
    expect(cache.get('a')).toBeUndefined(); // it lies in a file now
    lose();
    expect(await cache.stale('a')).toMatchObject({ id: 'id-a', data: '{"n":1}' });
    const tooLate = cache.stale('a');
    clock.advance(STALE_FOR + 1);
    expect(await tooLate).toBeUndefined(); // its time was up while it was read
    clock.advance(-1);
    const reading = cache.stale('a');
    cache.delete('id-a');
    expect(await reading).toBeUndefined();
  });
});

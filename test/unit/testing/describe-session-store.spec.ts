// The suite itself: it finds each broken store by the right tests, and leaves a sound one alone.
import { describe, expect, it } from 'vitest';
import { MemorySessionStore, type SessionStore } from '../../../lib/index.js';
import { describeSessionStore } from '../../../lib/testing/index.js';
import { ManualClock } from '../../support/manual-clock.js';
import { MapRecordStore } from '../core/map-record-store.js';
import * as broken from './broken-stores.js';
import { CollectingRunner, type Collected } from './collecting-runner.js';
import { FAILURES } from './expected-failures.js';

/** A store by a clock that tests move. */
type StoreClass = new (options: { clock: ManualClock }) => SessionStore;

function check(Store: StoreClass, runner = new CollectingRunner()): Promise<Collected> {
  describeSessionStore(runner, Store.name, async () => {
    const clock = new ManualClock();
    return { store: new Store({ clock }), advance: (ms) => clock.advance(ms) };
  });
  return runner.run();
}

describe('describeSessionStore()', { timeout: 120_000 }, () => {
  it('finds nothing wrong with a sound store that can do everything, and skips nothing', async () => {
    const { passed, failed, skipped } = await check(MemorySessionStore);
    expect({ failed, skipped }).toEqual({ failed: [], skipped: [] });
    expect(passed.length).toBeGreaterThan(120);
    expect(new Set(passed).size).toBe(passed.length);
  });

  it('finds nothing wrong with a sound store that can do least, and skips with the reason what it cannot', async () => {
    const { passed, failed, skipped } = await check(MapRecordStore);
    expect(failed).toEqual([]);
    expect(passed.length).toBeGreaterThan(90);
    expect(new Set(skipped.map(({ reason }) => reason))).toEqual(
      new Set(['no capabilities.index', 'no capabilities.aliases']),
    );
    expect(skipped.map(({ title }) => title)).toContain('destroyMany() of nothing resolves to nothing');
  });

  it('skips by the context of vitest and node:test, by `this` of mocha, and passes where a runner has neither', async () => {
    const [context, self, none] = [
      await check(MapRecordStore),
      await check(MapRecordStore, new CollectingRunner('this')),
      await check(MapRecordStore, new CollectingRunner('none')),
    ];
    expect(self).toEqual(context);
    expect(none.failed).toEqual([]);
    expect(none.skipped).toEqual([]);
    expect(none.passed.length).toBe(context.passed.length + context.skipped.length);
  });

  it.each(Object.entries(broken))(
    'finds %s by exactly the tests that are about what it does wrong',
    async (name, Store) => {
      const { failed } = await check(Store);
      const expected = FAILURES[name as keyof typeof broken];
      expect(expected.length).toBeGreaterThan(0);
      expect(failed).toEqual(expected);
    },
  );
});

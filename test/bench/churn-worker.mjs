// A process through which a day's sessions go: made, read, forgotten and expired, on a clock that this file moves. It puts
// the package's parts together as SessionModule does, because the module's own clock cannot be moved.
import { mock } from 'node:test';
import { CacheService } from '../../dist/cache/cache.service.js';
import { dataCodecOf } from '../../dist/core/custom-codec.js';
import { RecordData } from '../../dist/core/record-data.js';
import { SessionEngine } from '../../dist/core/session-engine.js';
import { SessionService } from '../../dist/core/session.service.js';
import { SessionEvents } from '../../dist/events/session-events.js';
import { resolveSessionOptions } from '../../dist/options/resolve-session-options.js';
import { MemorySessionStore } from '../../dist/store/memory-session.store.js';
import { serve } from '../support/worker-rpc.mjs';
import { check, makeData } from './kit.mjs';

const IDLE_MS = 30 * 60_000;
/** Of the moved clock: how often the store prunes what has expired and is swept. */
const PRUNE_EVERY_MS = 20_000;
/** The store's own timer, which fires when it is told to. */
const PRUNE_TIMER_MS = 1_000;
/** Sessions of each turn; reads go to those of the turns before as well. */
const TURN = 500;

let passed = 0;
const monotonic = () => 5_000 + passed;
const clock = { monotonic, glance: monotonic, steady: monotonic, wall: () => Date.UTC(2030, 0, 1) + passed };
/** Links that never break. */
const epoch = { liveUntil: Infinity, provenUntil: Infinity, ended: false };
const source = { epochOf: () => epoch, countRefusedFill() {}, onInvalidation() {} };

let parts;
let recent = [];
let pruned = 0;
let expired = 0;

serve({
  async open(maxEntries, maxSessions) {
    mock.timers.enable({ apis: ['setInterval'] });
    const options = resolveSessionOptions({ idleTimeout: IDLE_MS, cache: { maxEntries } });
    const store = new MemorySessionStore({ clock, maxSessions });
    await store.open();
    const events = new SessionEvents((error) => {
      throw error;
    });
    const cache = new CacheService(options.cache, source, events, clock);
    const data = new RecordData(dataCodecOf(options.codec), options);
    const engine = new SessionEngine(store, cache, events, options, data, clock);
    parts = { store, cache, sessions: new SessionService(engine, options) };
  },
  /**
   * @param count sessions that are made, each read, and half of them ended
   * @param everyMs of the moved clock from one to the next
   */
  async churn(count, everyMs) {
    const { sessions, store, cache } = parts;
    for (let made = 0; made < count; made += TURN) {
      const tokens = [];
      for (let index = 0; index < Math.min(TURN, count - made); index++) {
        passed += everyMs;
        const session = await sessions.create(makeData(), { userId: `user-${(made + index) % 5_000}` });
        tokens.push(session.token);
        check((await sessions.get(session.token))?.data.x === 1_000_000, 'a session that was made is there');
        // One from earlier, as likely as not expired or ended by now.
        if (recent.length > 0) await sessions.get(recent[(made * 7 + index) % recent.length]);
        if (index % 2 === 0) await sessions.destroy(session.token);
        if (passed - pruned >= PRUNE_EVERY_MS) {
          pruned = passed;
          mock.timers.tick(PRUNE_TIMER_MS);
          await store.sweep(() => expired++, 1);
        }
      }
      recent = [...recent.slice(-4 * TURN), ...tokens];
      await new Promise((resolve) => setImmediate(resolve));
    }
    for (let round = 0; round < 4; round++) globalThis.gc();
    const { rss, heapUsed, external } = process.memoryUsage();
    return {
      rss,
      heapUsed,
      external,
      entries: cache.size,
      stored: await store.length(),
      expired,
      hoursPassed: passed / 3_600_000,
    };
  },
  close: () => parts.store.close(),
});

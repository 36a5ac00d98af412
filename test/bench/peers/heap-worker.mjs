// A process whose memory is measured: it holds sessions in another package's own cache, or in a plain one, and nothing else.
import { LRUCache } from 'lru-cache';
import { makeData } from '../kit.mjs';
import { serve } from '../../support/worker-rpc.mjs';
import { bentostore, BentoCache } from 'bentocache';
import { memoryDriver } from 'bentocache/drivers/memory';
import { createRequire } from 'node:module';
import { randomBytes } from 'node:crypto';

const SessionToken = createRequire(import.meta.url)('session-token');
/** As a process has it: of one string, which nothing else holds. */
const newToken = () => Buffer.from(randomBytes(33).toString('base64url')).latin1Slice();
/** As a process has it that read it from Redis. */
const fresh = (text) => JSON.parse(text);

const CACHES = {
  'Map of objects'() {
    const map = new Map();
    return (token, text) => map.set(token, fresh(text));
  },
  'lru-cache, ttl, of objects'() {
    const cache = new LRUCache({ max: 200_000, ttl: 3_600_000 });
    return (token, text) => cache.set(token, fresh(text));
  },
  'session-token'() {
    const peer = new SessionToken({ expireTime: 1_800, redisKeyPrefix: 'x', idleCheckInterval: 3_600_000 });
    return (token, text) => peer._saveTokenToStorage(token, fresh(text));
  },
  bentocache() {
    const store = bentostore().useL1Layer(memoryDriver({ maxItems: 200_000 }));
    const bento = new BentoCache({ default: 'sessions', ttl: 1_800_000, stores: { sessions: store } });
    return (key, text) => bento.set({ key, value: fresh(text) });
  },
};

process.once('disconnect', () => process.exit()); // session-token has timers that nothing stops

let put;

serve({
  names: () => Object.keys(CACHES),
  /** Bytes a session: of the heap, and outside it. */
  async measure(name, count, bytes) {
    const text = JSON.stringify(makeData(1_000_000, bytes));
    put = CACHES[name](); // held by this module: it must not be collected
    for (let index = 0; index < 2_000; index++) await put(newToken(), text);
    const before = memory();
    for (let index = 0; index < count; index++) await put(newToken(), text);
    const after = memory();
    await put(newToken(), text);
    return {
      heap: (after.heapUsed - before.heapUsed) / count,
      external: (after.external - before.external) / count,
    };
  },
});

function memory() {
  for (let round = 0; round < 4; round++) globalThis.gc();
  return process.memoryUsage();
}

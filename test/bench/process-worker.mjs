// One of the processes on one Redis: it holds copies of sessions, or writes them. Times are the machine's monotonic clock,
// the same for all.
import { setTimeout as delay } from 'node:timers/promises';
import { serve } from '../support/worker-rpc.mjs';
import { check, makeData, openApp } from './kit.mjs';
import { closedLoop } from './rounds.mjs';

const now = () => Number(process.hrtime.bigint()) / 1e6;

let app;
let tokens = [];
/** When this process had dropped its copy, in the order of the messages. */
let heardAt = [];
/** Reads a session anew when its copy went, as the next request would. */
let refill;

serve({
  async open(url, options) {
    app = await openApp(url, options);
    // After the near cache's own listener: by now it has dropped the copy.
    app.subscriber.onInvalidation(() => {
      heardAt.push(now());
      if (refill !== undefined) setImmediate(() => refill?.());
    });
  },
  async create(count) {
    tokens = [];
    for (let index = 0; index < count; index++)
      tokens.push((await app.service.create(makeData(), { userId: `user-${index}` })).token);
    return tokens;
  },
  async hold(token) {
    await app.service.get(token);
    const session = await app.service.get(token);
    check(session?.source === 'cache', 'every process holds a copy before the session changes');
    heardAt = [];
    refill = () => void app.service.get(token);
  },
  release() {
    refill = undefined;
  },
  heard: () => heardAt,
  /** One write every `everyMs`; resolves to when each was called and answered. */
  async write(token, count, everyMs) {
    const times = [];
    for (let index = 0; index < count; index++) {
      const session = await app.service.get(token);
      session.data.x++;
      const calledAt = now();
      await session.save();
      times.push({ calledAt, answeredAt: now() });
      await delay(everyMs);
    }
    return times;
  },
  /** As many writes as the machine allows, of different sessions. */
  async flood(count, concurrency) {
    const sessions = await Promise.all(tokens.map((token) => app.service.get(token)));
    await closedLoop(count, concurrency, (index) => {
      const session = sessions[index % sessions.length];
      session.data.x++;
      return session.save();
    });
  },
  close: () => app.close(),
});

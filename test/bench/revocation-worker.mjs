// One of the processes between which a session ends. Times are the machine's monotonic clock, the same for all.
import { setTimeout as delay } from 'node:timers/promises';
import { serve } from '../support/worker-rpc.mjs';
import { check, makeData, openApp } from './kit.mjs';

/** Between two reads of a session that is watched: what a user who never stops to click would do. Milliseconds. */
const POLL_MS = 1;
const GIVE_UP_MS = 30_000;

const now = () => Number(process.hrtime.bigint()) / 1e6;

let app;
let watching;

serve({
  async open(url, options) {
    app = await openApp(url, options);
  },
  create: async () => (await app.service.create(makeData(), { userId: 'ada' })).token,
  /** Resolves when the session is served from this process's own copy, and goes on reading it until it is refused. */
  async watch(token) {
    await app.service.get(token);
    const session = await app.service.get(token);
    check(session?.source === 'cache', 'every process must hold a copy before the session ends');
    watching = untilRefused(token);
    watching.catch(() => undefined); // told by watched()
  },
  watched: () => watching,
  async end(token) {
    const calledAt = now();
    const ended = await app.service.destroy(token);
    check(ended, 'the session was alive until now');
    return { calledAt, answeredAt: now() };
  },
  async close() {
    await app.close();
  },
});

/** Resolves to when the last read that was answered from the copy began, and when the first refusal was there. */
async function untilRefused(token) {
  const giveUpAt = now() + GIVE_UP_MS;
  for (let lastServed = 0; ; await delay(POLL_MS)) {
    const began = now();
    const session = await app.service.get(token);
    if (session === null) return { lastServed, refusedAt: now() };
    if (session.source === 'cache') lastServed = began;
    check(began < giveUpAt, `a session that ended was still served after ${GIVE_UP_MS} ms`);
  }
}

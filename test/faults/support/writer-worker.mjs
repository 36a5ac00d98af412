// The writer of the oracle: changes, ends and creates sessions without pause, and notes when each was acknowledged.
// Driven by `observation.ts`. Its link to Redis is its own: no fault of a reader's link touches it.
import { setTimeout as delay } from 'node:timers/promises';
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import { SessionModule, SessionService } from 'nestjs-sessionkit';
import { serve } from '../../support/worker-rpc.mjs';
import { now } from './machine-clock.mjs';

/** What a store that is away may answer; the write is tried again until it is acknowledged. */
const RETRIED = new Set(['SESSION_STORE_UNAVAILABLE', 'SESSION_CONFLICT']);
const RETRY_MS = 5;

let app;
let sessions;
let running = false;
let lanes = [];
/** The living sessions, by slot: `{ index, token, n, createdAt, ended }`. An ended one is replaced by its lane. */
let slots = [];
let created = 0;

// News for the readers since the last drain; flat, because they cross a process boundary ten times a second.
let news = empty();
const counts = { writes: 0, creates: 0, destroys: 0, retries: 0, lost: 0 };

function empty() {
  return { created: [], acks: [], ended: [] };
}

/** `began`: from here on a reader may be told null. `at`: acknowledged; later reads must be told null, bound aside. */
function end(session, began, at) {
  if (session.ended) return;
  session.ended = true;
  news.ended.push(session.index, began, at);
}

/** Until it is acknowledged; undefined when the run was stopped first. */
async function persist(operation) {
  while (running) {
    try {
      return { value: await operation() };
    } catch (error) {
      if (!RETRIED.has(error.code)) throw error;
      counts.retries++;
      await delay(RETRY_MS);
    }
  }
  return undefined;
}

async function create(slot) {
  const made = await persist(() => sessions.create({ n: 0 }));
  if (made === undefined) return;
  const session = { index: created++, token: made.value.token, n: 0, createdAt: now(), ended: false };
  counts.creates++;
  slots[slot] = session;
  news.created.push(session.index, session.token);
}

async function update(session) {
  const n = session.n + 1;
  try {
    const done = await persist(() => sessions.update(session.token, { n }));
    if (done === undefined) return;
    session.n = n;
    counts.writes++;
    news.acks.push(session.index, n, now());
  } catch (error) {
    if (error.code !== 'SESSION_GONE') throw error;
    // Nobody else ends our sessions: the server lost it.
    if (!session.ended) counts.lost++;
    end(session, 0, now());
  }
}

async function destroy(session) {
  const began = now();
  const done = await persist(() => sessions.destroy(session.token));
  if (done === undefined) return;
  counts.destroys++;
  end(session, began, now());
}

/** One of the concurrent writers; it alone writes the slots from `first` on, every `step`-th. */
async function run(first, step, { sessions: total, pauseMs, destroyRatio }) {
  const own = Math.floor((total - first - 1) / step) + 1;
  for (let slot = first; slot < total && running; slot += step) await create(slot);
  while (running) {
    const slot = first + step * Math.floor(Math.random() * own);
    const session = slots[slot];
    if (session === undefined || session.ended) await create(slot);
    else if (Math.random() < destroyRatio) await destroy(session);
    else await update(session);
    await delay(pauseMs * 2 * Math.random());
  }
}

serve({
  async boot(options) {
    app = await NestFactory.createApplicationContext(SessionModule.forRoot(options), {
      logger: false,
      abortOnError: false,
    });
    sessions = app.get(SessionService);
  },
  /** Begins to write: see `WriterLoad`. */
  start(load) {
    running = true;
    slots = Array.from({ length: load.sessions });
    lanes = Array.from({ length: load.lanes }, (_, lane) => run(lane, load.lanes, load));
    for (const lane of lanes)
      lane.catch((error) =>
        setImmediate(() => {
          throw error;
        }),
      );
  },
  /** Sessions that live now. */
  living: () => slots.filter((session) => session !== undefined && !session.ended).length,
  /** What happened since the last call. Complete up to `upTo`: nothing acknowledged before is still to come. */
  drain() {
    const drained = { ...news, upTo: now(), counts: { ...counts } };
    news = empty();
    return drained;
  },
  /** The server lost everything: sessions acknowledged before `at` are gone since then, and may be since `began`. */
  allGone(began, at) {
    for (const session of slots) {
      if (session !== undefined && session.createdAt < at) end(session, began, at);
    }
  },
  async stop() {
    running = false;
    await Promise.all(lanes);
  },
  close: () => app.close(),
});

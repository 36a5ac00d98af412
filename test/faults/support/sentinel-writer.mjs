// The writer of the Sentinel tests. Unlike `writer-worker.mjs` it finds out which acknowledged writes the servers
// themselves lost in a failover (it adds 1 to what the store holds, so the answer tells), and counts only the others:
// a version that no server has any more cannot be missing from a copy.
import { setTimeout as delay } from 'node:timers/promises';
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import { SessionModule, SessionService } from 'nestjs-sessionkit';
import { serve } from '../../support/worker-rpc.mjs';
import { now } from './machine-clock.mjs';

const RETRY_MS = 5;

const apps = [];
let sessions;
/** Ends sessions: so that an acknowledged end cannot be lost, as long as that can happen. */
let ender;
let running = false;
let work = [];
/** `{ index, token, acks: [time of version n] }` */
const written = [];
/** Sessions to be ended one by one: `{ index, token, began, ended }`; `ended` stays Infinity unless a replica had it. */
const doomed = [];
const counts = { writes: 0, lost: 0, ends: 0, endsInDoubt: 0, lastWrite: 0, longestPause: 0, errors: {} };

function noteError(error) {
  if (typeof error.code !== 'string') throw error;
  counts.errors[error.code] = (counts.errors[error.code] ?? 0) + 1;
}

async function write(session) {
  const { acks } = session;
  let held;
  try {
    const { data } = await sessions.update(session.token, ({ n }) => {
      held = n;
      return { n: Math.max(n + 1, acks.length) }; // no number twice, not even one that was lost
    });
    const at = now();
    // Acknowledged but not held: lost. What a reader may lack of them is what there is instead, from now on. One whose
    // answer was lost is held but was not acknowledged: it was there by now.
    counts.lost += Math.max(0, acks.length - 1 - held);
    acks.length = Math.min(acks.length, held + 1);
    while (acks.length <= data.n) acks.push(at);
    counts.writes++;
    if (counts.lastWrite > 0) counts.longestPause = Math.max(counts.longestPause, at - counts.lastWrite);
    counts.lastWrite = at;
  } catch (error) {
    noteError(error);
    await delay(RETRY_MS);
  }
}

async function end(session) {
  session.began = now();
  try {
    await ender.destroy(session.token);
    session.ended = now();
    counts.ends++;
  } catch (error) {
    noteError(error);
    counts.endsInDoubt++;
  }
}

async function lane(first, step, pauseMs) {
  for (let at = first; running; at = (at + step) % written.length) {
    await write(written[at]);
    await delay(pauseMs * 2 * Math.random());
  }
}

serve({
  /** Creates the sessions; flat `index, token` pairs, as the readers' `learn` takes them. */
  async boot(options, { sessions: total, doomed: toEnd }) {
    const open = async (settings) => {
      const app = await NestFactory.createApplicationContext(SessionModule.forRoot(settings), {
        logger: false,
        abortOnError: false,
      });
      apps.push(app);
      return app.get(SessionService);
    };
    sessions = await open(options);
    ender = await open({ ...options, waitForReplicas: 1 });
    const tokens = [];
    while (tokens.length < total + toEnd) {
      const made = await Promise.allSettled(Array.from({ length: 100 }, () => sessions.create({ n: 0 })));
      for (const { value } of made)
        if (value !== undefined && tokens.length < total + toEnd) tokens.push(value.token);
    }
    for (const [index, token] of tokens.entries()) {
      if (index < total) written.push({ index, token, acks: [now()] });
      else doomed.push({ index, token, began: Infinity, ended: Infinity });
    }
    return tokens.flatMap((token, index) => [index, token]);
  },
  /** From here on there is no other failover, and for a while no replica: ends are final as they are. */
  calm() {
    ender = sessions;
  },
  start({ lanes, pauseMs, endEveryMs }) {
    running = true;
    work = Array.from({ length: lanes }, (_, first) => lane(first, lanes, pauseMs));
    work.push(
      (async () => {
        // Not one after the other: one that waits for a replica must not hold up the next.
        const ending = [];
        for (const session of doomed) {
          if (!running) break;
          ending.push(end(session));
          await delay(endEveryMs);
        }
        await Promise.all(ending);
      })(),
    );
    for (const part of work)
      part.catch((error) =>
        setImmediate(() => {
          throw error;
        }),
      );
  },
  counts: () => counts,
  /** Ends the writing and finds out what the store holds; gives what the readers are to be judged by. */
  async stop() {
    running = false;
    await Promise.all(work);
    for (const session of written) await write(session);
    return {
      created: [],
      acks: written.flatMap(({ index, acks }) => acks.flatMap((at, n) => [index, n, at])),
      ended: doomed.filter(({ began }) => began < Infinity).flatMap((s) => [s.index, s.began, s.ended]),
      upTo: now(),
      counts,
    };
  },
  close: () => Promise.all(apps.map((app) => app.close())),
});

// A reader of the oracle: one process of a deployment that reads its sessions again and again and judges each answer
// by what the writer says it had acknowledged when the read began. Driven by `observation.ts`.
import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import { Redis } from 'ioredis';
import {
  CacheService,
  RedisSubscriber,
  SessionEvents,
  SessionModule,
  SessionService,
} from 'nestjs-sessionkit';
import { RedisSessionStore } from '../../../dist/store/redis-session.store.js';
import { emit, serve } from '../../support/worker-rpc.mjs';
import { now } from './machine-clock.mjs';

const CACHE = 1;
const STORE = 2;
const NULL = 3;
/** How long an ended session is still asked for: it must stay refused. */
const KEEP_ENDED_MS = 15_000;
const MAX_IN_FLIGHT = 64;
const SAMPLES = 5;

let app;
let sessions;
let subscriber;
let cache;
let leaseMs = 0;
let pace;
let timer;
let quiet = false;
let inFlight = 0;
const leases = [];

/** By index: `{ index, token, acks: time of version n, began, ended, pending }`. */
const known = [];
/** Those that are read. */
let rotation = [];

// Reads that are not judged yet: parallel arrays.
const readOf = [];
const readAt = [];
const readVersion = [];
const readSource = [];
/** Nulls for sessions that nobody was known to have begun to end. */
const suspectNulls = [];

const report = {
  /** Answers judged. */
  reads: 0,
  /** Of them from the near cache. */
  hits: 0,
  stored: 0,
  nulls: 0,
  /** Greatest age in milliseconds of what a read did not show though it had been acknowledged. */
  worstMs: 0,
  /** Reads staler than the bound; of them of ended sessions, and of them from the near cache. */
  over: 0,
  overEnded: 0,
  overCache: 0,
  samples: [],
};
/** Lookups, counted at once: a hit or a miss each. `quiet` ones while the parent says that no fault is active. */
const lookups = { hits: 0, misses: 0, quietHits: 0, quietMisses: 0, lastHit: 0, errors: {} };

function note(info, version, at, source) {
  readOf.push(info);
  readAt.push(at);
  readVersion.push(version);
  readSource.push(source);
}

/** A read as a request does it: the near cache, then the store. */
function read(info) {
  const at = now();
  const session = sessions.getCached(info.token);
  if (session !== null) {
    lookups.hits++;
    lookups.lastHit = at;
    if (quiet) lookups.quietHits++;
    note(info, session.data.n, at, CACHE);
    return;
  }
  if (info.ended === Infinity) {
    lookups.misses++;
    if (quiet) lookups.quietMisses++;
  }
  if (inFlight < MAX_IN_FLIGHT && info.pending < 2) void fetch(info);
}

async function fetch(info) {
  inFlight++;
  info.pending++;
  const at = now();
  try {
    const session = await sessions.get(info.token);
    // A value is judged by when it was asked for, a null by when it was given: each the stricter for the answer.
    if (session === null) note(info, 0, now(), NULL);
    else note(info, session.data.n, at, session.source === 'cache' ? CACHE : STORE);
  } catch (error) {
    const code = error.code ?? error.message;
    lookups.errors[code] = (lookups.errors[code] ?? 0) + 1;
  } finally {
    inFlight--;
    info.pending--;
  }
}

function burst(count) {
  for (let k = 0; k < count && rotation.length > 0; k++) {
    read(rotation[Math.floor(Math.random() * rotation.length)]);
  }
}

const nobody = new Int32Array(new SharedArrayBuffer(4));
const sleepSync = (ms) => Atomics.wait(nobody, 0, 0, ms);

function tick() {
  burst(pace.burst);
  timer = setTimeout(tick, pace.everyMs);
}

function judge(upTo) {
  let kept = 0;
  for (let k = 0; k < readOf.length; k++) {
    const at = readAt[k];
    if (at > upTo) {
      readOf[kept] = readOf[k];
      readAt[kept] = at;
      readVersion[kept] = readVersion[k];
      readSource[kept] = readSource[k];
      kept++;
      continue;
    }
    judgeOne(readOf[k], readVersion[k], at, readSource[k]);
  }
  readOf.length = readAt.length = readVersion.length = readSource.length = kept;
}

function judgeOne(info, version, at, source) {
  report.reads++;
  if (source === NULL) {
    report.nulls++;
    // Not judged before the end: that a session had begun to end may become known later.
    if (at < info.began) suspectNulls.push({ info, at });
    return;
  }
  if (source === CACHE) report.hits++;
  else report.stored++;
  const next = info.acks[version + 1] ?? Infinity;
  const stale = at - Math.min(next, info.ended);
  if (stale > report.worstMs) report.worstMs = stale;
  if (stale <= leaseMs) return;
  if (source === CACHE) report.overCache++;
  if (info.ended < next) report.overEnded++;
  report.over++;
  if (report.samples.length < SAMPLES)
    report.samples.push({ session: info.index, version, at, source, staleMs: stale, ended: info.ended });
}

/** Lets the near cache see one epoch that never ends for each session, live until `liveUntil` says by the real one. */
function withoutEpochs(liveUntil) {
  const weak = new Map();
  replace(RedisSubscriber.prototype, 'epochOf', (epochOf) => (id) => {
    if (!weak.has(id)) {
      const epoch = {
        get liveUntil() {
          return liveUntil(epochOf(id));
        },
        provenUntil: -Infinity,
        ended: false,
      };
      weak.set(id, epoch);
    }
    return weak.get(id);
  });
}

/** Puts another method in the place of one, which it gets bound to its object. */
function replace(target, name, make) {
  const method = target[name];
  target[name] = function (...args) {
    return make(method.bind(this), this)(...args);
  };
}

/** "Weakened" protocols, to show that a test notices. Patched here, so that the package needs no such option. */
const WEAKEN = {
  none: (options) => options,
  /** Copies outlive the epoch they were stored in. */
  epoch: (options) => {
    withoutEpochs((epoch) => epoch.liveUntil);
    return options;
  },
  /** Epochs, but no lease: a link counts as sound until it closes. */
  lease: (options) => ({ ...options, coherence: { ...options.coherence, leaseMs: 60_000 } }),
  /** Plain pub/sub: neither. */
  naive: (options) => {
    withoutEpochs(() => Infinity);
    Object.defineProperty(RedisSubscriber.prototype, 'live', { get: () => true });
    return options;
  },
  /** In a Cluster: a master that answers counts as the owner of every slot it has once owned. */
  unkeyed: (options) => {
    const isSubscriber = ({ options: { connectionName } }) => connectionName?.startsWith('sessionkit-sub');
    replace(Redis.prototype, 'exists', (exists, client) => async (...keys) => {
      return isSubscriber(client) ? void (await client.ping()) : exists(...keys);
    });
    replace(Redis.prototype, 'ssubscribe', (ssubscribe, client) => async (...names) => {
      const answer = await ssubscribe(...names);
      client.condition.subscriber.del = () => undefined; // nor what the server takes back
      return answer;
    });
    replace(RedisSessionStore.prototype, 'open', (open, { connection }) => () => {
      connection.onRedirected = () => undefined;
      replace(connection, 'follow', (follow) => (onMasters) => {
        let told = false;
        follow((masters) => {
          if (!told) onMasters(masters);
          told = true;
        });
      });
      return open();
    });
    return options;
  },
};

serve({
  /** Resolves when the near cache may be used. `bound`: what reads are judged by, whatever the options say. */
  async boot(options, { weaken, bound, pace: paceOf }) {
    leaseMs = bound;
    pace = paceOf;
    app = await NestFactory.createApplicationContext(SessionModule.forRoot(WEAKEN[weaken](options)), {
      logger: false,
      abortOnError: false,
    });
    sessions = app.get(SessionService);
    subscriber = app.get(RedisSubscriber);
    cache = app.get(CacheService);
    app.get(SessionEvents).on('lease', (event) => {
      if (leases.length < 1_000) leases.push({ ...event, at: now() });
    });
  },
  start: () => tick(),
  /** The writer's news; judges the reads up to theirs. */
  learn({ created, acks, ended, upTo }) {
    for (let k = 0; k < created.length; k += 2) {
      const [index, token] = [created[k], created[k + 1]];
      const info = { index, token, acks: [], began: Infinity, ended: Infinity, pending: 0 };
      known[index] = info;
      rotation.push(info);
    }
    for (let k = 0; k < acks.length; k += 3) {
      known[acks[k]].acks[acks[k + 1]] ??= acks[k + 2];
    }
    for (let k = 0; k < ended.length; k += 3) {
      const info = known[ended[k]];
      info.began = ended[k + 1];
      info.ended = ended[k + 2];
    }
    judge(upTo);
    if (ended.length > 0) rotation = rotation.filter((info) => upTo - info.ended < KEEP_ENDED_MS);
  },
  /**
   * Reads for so many steps of at least a millisecond without a turn of the event loop, after telling so: a process
   * that is stopped in here goes on reading before it hears any news.
   */
  spin(steps) {
    emit('spinning');
    for (let step = 0; step < steps; step++) {
      burst(5);
      sleepSync(1);
    }
  },
  /** Holds up the event loop, and reads before it may turn again. */
  block(ms) {
    sleepSync(ms);
    burst(2_000);
  },
  quiet(on) {
    quiet = on;
  },
  state: () => ({
    state: subscriber.state,
    live: subscriber.live,
    epoch: subscriber.epoch,
    proofAge: subscriber.proofAge,
    ...subscriber.counts,
    cache: cache.stats(),
    ...lookups,
    known: known.length,
    unjudged: readOf.length,
    at: now(),
  }),
  report: () => ({
    ...report,
    ...lookups,
    wrongNulls: suspectNulls.filter(({ info, at }) => at < info.began).length,
    leases,
  }),
  stop() {
    clearTimeout(timer);
  },
  close: () => app.close(),
});

// Real processes whose wall clocks are an hour wrong, or are set while they run, over one Redis whose time is true:
// sessions live as long as by any other process. Clocks are made wrong by libfaketime (Debian package faketime).
//
// Shown to fail when a copy's deadline is counted from the wall clock, when the lease is measured by the steady clock
// alone, when a cookie's life is counted with a clock that leaps, and when the absolute end of a cookie is not converted.
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SessionModuleOptions } from '../../lib/index.js';
import { MovableClock, WITHOUT_FAKETIME, wrongBy } from '../support/fake-time.js';
import { NodeWorker } from '../support/node-worker.js';
import { RedisServer } from '../support/redis-server.js';
import { uniquePrefix } from '../support/redis-url.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { recordKey } from './session-node.js';

const SECOND = 1_000;
const MINUTE = 60_000;
const HOUR = 3_600_000;

/** A session as a worker shows it. */
interface Shown {
  id: string;
  token: string;
  source: string;
  valid: boolean;
  createdAt: number;
  lastAccess: number;
  expiresAt: number;
  expiresIn: number;
  idle: number;
}

if (WITHOUT_FAKETIME !== null) console.warn(`wall-clock.integration-spec: skipped, ${WITHOUT_FAKETIME}`);

describe.skipIf(WITHOUT_FAKETIME !== null)('wall clocks that are wrong', () => {
  let server: RedisServer;
  let redis: Redis;
  let prefix: string;
  const closing: (() => unknown)[] = [];
  const workers = new Map<NodeWorker, string>();

  /** Epoch milliseconds of Redis, with microseconds: the true time. */
  async function trueNow(): Promise<number> {
    const [seconds, us] = (await redis.time()) as unknown as [number, number];
    return Number(seconds) * SECOND + Number(us) / 1_000;
  }

  async function start(env: Record<string, string>, options: SessionModuleOptions = {}): Promise<NodeWorker> {
    const worker = await NodeWorker.start(new URL('./workers/clock-worker.mjs', import.meta.url), { env });
    closing.push(async () => {
      await worker.call('close');
      await worker.stop();
    });
    const url = await worker.call<string>('boot', {
      redis: server.url,
      keyPrefix: prefix,
      idleTimeout: '30m',
      touchInterval: 0,
      sweepInterval: '1h',
      rotateEvery: '1m',
      cookie: { secure: false, maxAge: '1h' },
      ...options,
    });
    workers.set(worker, url);
    await waitFor(async () => (await worker.call<{ live: boolean }>('state')).live, { timeoutMs: 20_000 });
    return worker;
  }

  async function ask(
    worker: NodeWorker,
    path: string,
    { method = 'GET', cookie = '', csrf = '' }: { method?: string; cookie?: string; csrf?: string } = {},
  ) {
    const answer = await fetch(`${workers.get(worker)}/${path}`, {
      method,
      headers: { ...(cookie !== '' && { cookie }), ...(csrf !== '' && { 'x-csrf-token': csrf }) },
    });
    const [line = ''] = answer.headers.getSetCookie();
    const life = /Max-Age=(\d+)/.exec(line)?.[1];
    return {
      status: answer.status,
      body: await answer.text(),
      cookie: line.split(';')[0]!,
      maxAge: life === undefined ? undefined : Number(life),
      expires: Date.parse(/Expires=([^;]+)/.exec(line)?.[1] ?? ''),
      date: Date.parse(answer.headers.get('date') ?? ''),
    };
  }

  /**
   * Asks again and again until the answer is no, and holds each against the true time: a yes that came too late shows a
   * session that was prolonged, a no that came too early one that was killed. No time is slept for.
   */
  async function endsAt(deadline: number, isAlive: () => Promise<boolean>): Promise<void> {
    for (let yes = 0; ; yes++) {
      const before = await trueNow();
      if (await isAlive()) {
        expect(before).toBeLessThan(deadline);
        continue;
      }
      expect(await trueNow()).toBeGreaterThanOrEqual(deadline);
      expect(yes).toBeGreaterThan(0);
      return;
    }
  }

  let right: NodeWorker;
  let ahead: NodeWorker;
  let behind: NodeWorker;
  /** Its wall clock is `clock`. */
  let jumper: NodeWorker;
  /** Both its clocks are `wholeClock`. */
  let leaper: NodeWorker;
  let clock: MovableClock;
  let wholeClock: MovableClock;
  /** Of the jumper to Redis. */
  let link: TcpProxy;
  let commands: TcpProxy;
  beforeAll(async () => {
    server = await RedisServer.start();
    redis = new Redis(server.url);
    prefix = uniquePrefix();
    clock = new MovableClock();
    wholeClock = new MovableClock({ monotonic: true });
    link = await TcpProxy.start({ targetPort: server.port });
    commands = await TcpProxy.start({ targetPort: server.port });
    // Only those whose clocks are wrong sweep.
    [right, ahead, behind, jumper, leaper] = await Promise.all([
      start({}),
      start(wrongBy('+1h', { monotonic: true }), { sweepInterval: '200ms' }),
      start(wrongBy('-1h'), { sweepInterval: '200ms' }),
      start(clock.env, {
        redis: commands.url,
        subscriber: link.url,
        coherence: { leaseMs: 20_000, heartbeatMs: 100 },
        commandTimeout: '500ms',
      }),
      start(wholeClock.env),
    ]);
  }, 60_000);
  afterAll(async () => {
    await Promise.all(closing.splice(0).map((close) => close()));
    redis?.disconnect();
    await Promise.all([link?.close(), commands?.close()]);
    clock?.close();
    wholeClock?.close();
    await server?.stop();
  });

  // At once: most of it is waiting for the true time to pass.
  describe.concurrent('from the start', () => {
    let all: NodeWorker[];
    beforeAll(() => {
      all = [right, ahead, behind];
    });

    it('their clocks are wrong by an hour, and none knows', async () => {
      const by = async (worker: NodeWorker) =>
        Math.round(((await worker.call<number>('wall')) - Date.now()) / MINUTE) + 0; // no -0
      expect([await by(right), await by(ahead), await by(behind)]).toEqual([0, 60, -60]);
      for (const worker of all)
        expect(Math.abs((await worker.call<number>('now')) - (await trueNow()))).toBeLessThan(5 * SECOND);
    });

    it('a session made by any lives to the same moment in all, neither longer nor shorter', async () => {
      await Promise.all(
        all.map(async (maker) => {
          const before = Math.floor(await trueNow());
          const made = await maker.call<Shown>('create', {}, { idleTimeout: 2 * SECOND });
          const after = await trueNow();
          expect(made.createdAt).toBeGreaterThanOrEqual(before);
          expect(made.createdAt).toBeLessThanOrEqual(after);
          expect(made.expiresAt).toBe(made.createdAt + 2 * SECOND);
          expect(made.expiresIn).toBeLessThanOrEqual(2 * SECOND);
          await Promise.all(
            all.map(async (viewer) => {
              // From the near cache, but for the first look and the last.
              await endsAt(made.expiresAt, async () => {
                const seen = await viewer.call<Shown | null>('get', made.token);
                if (seen !== null) expect(seen.expiresAt).toBe(made.expiresAt);
                return seen !== null;
              });
            }),
          );
        }),
      );
    });

    it('the absolute deadline is the same for all', async () => {
      const made = await ahead.call<Shown>(
        'create',
        {},
        { idleTimeout: SECOND, absoluteTimeout: 2 * SECOND },
      );
      const until = made.createdAt + 2 * SECOND;
      await Promise.all(
        all.map((viewer) =>
          endsAt(until, async () => (await viewer.call<Shown | null>('touch', made.token)) !== null),
        ),
      );
    });

    it('touch, save and regenerate prolong by what is left from the true time, destroy ends for all', async () => {
      for (const worker of [ahead, behind]) {
        const made = await right.call<Shown>('create', {});
        for (const change of ['touch', 'update'] as const) {
          const before = Math.floor(await trueNow());
          await worker.call(change, made.token, { n: 1 });
          const after = await trueNow();
          const seen = await right.call<Shown>('get', made.token, { fresh: true });
          expect(seen.lastAccess).toBeGreaterThanOrEqual(before);
          expect(seen.lastAccess).toBeLessThanOrEqual(after);
          expect(seen).toMatchObject({ createdAt: made.createdAt, expiresAt: seen.lastAccess + 30 * MINUTE });
        }
        const next = await worker.call<Shown>('regenerate', made.token);
        expect(next).toMatchObject({ createdAt: made.createdAt, expiresAt: next.lastAccess + 30 * MINUTE });
        expect(Math.abs(next.expiresIn - 30 * MINUTE)).toBeLessThan(10 * SECOND);
        for (const viewer of all) {
          expect(await viewer.call('get', made.token, { fresh: true })).toBeNull();
          expect(await viewer.call('get', next.token)).toMatchObject({ expiresAt: next.expiresAt });
        }
        expect(await worker.call('destroy', next.token)).toBe(true);
        for (const viewer of all)
          await waitFor(async () => (await viewer.call('get', next.token)) === null, { timeoutMs: 10_000 });
      }
    });

    it('what is left, and how long it was idle, is shown alike by all', async () => {
      const made = await behind.call<Shown>('create', {});
      for (const viewer of all) {
        const before = await trueNow();
        const seen = await viewer.call<Shown>('get', made.token);
        const after = await trueNow();
        // The store's clock as it was heard last, going on since.
        expect(seen.expiresIn).toBeGreaterThanOrEqual(made.expiresAt - after - SECOND);
        expect(seen.expiresIn).toBeLessThanOrEqual(made.expiresAt - before + SECOND);
        expect(Math.abs(seen.idle + seen.expiresIn - 30 * MINUTE)).toBeLessThanOrEqual(2);
        expect(seen.valid).toBe(true);
      }
    });

    it('lists by activity show the same in all, until its time by the true clock', async () => {
      const made = await ahead.call<Shown>('create', {}, { userId: 'lists' });
      for (const viewer of all) {
        // Activity is noted in batches.
        await waitFor(async () => (await viewer.call<string[]>('active', '1m')).includes(made.id), {
          timeoutMs: 20_000,
        });
        expect(await viewer.call('shown', made.id)).toMatchObject({ createdAt: made.createdAt });
      }
      await Promise.all(
        all.map((viewer) =>
          waitFor(async () => !(await viewer.call<string[]>('active', 2 * SECOND)).includes(made.id), {
            timeoutMs: 20_000,
          }),
        ),
      );
      expect(await trueNow()).toBeGreaterThan(made.lastAccess + 2 * SECOND);
    });

    it('a cookie lives as long as its session, and is good in every other, as is a CSRF token', async () => {
      for (const maker of all) {
        const login = await ask(maker, 'login', { method: 'POST' });
        expect(login.status).toBe(201);
        expect(login.maxAge).toBeGreaterThan(1_790);
        expect(login.maxAge).toBeLessThanOrEqual(1_800);
        // Right by the clock of the very answer, which is what browsers go by that go by Expires at all.
        expect(Math.abs(login.expires - login.date - login.maxAge! * SECOND)).toBeLessThanOrEqual(2 * SECOND);
        for (const viewer of all) {
          const { cookie } = login;
          const look = await ask(viewer, 'look', { cookie });
          expect(look.status).toBe(200);
          expect(look.maxAge).toBeGreaterThan(1_790);
          expect((await ask(viewer, 'write', { method: 'POST', cookie, csrf: login.body })).status).toBe(201);
          expect((await ask(viewer, 'write', { method: 'POST', cookie })).status).toBe(403);
        }
      }
    });

    it('a login is recent for 2 s of true time in all, whoever it was made by', async () => {
      await Promise.all(
        all.map(async (maker) => {
          const { cookie } = await ask(maker, 'login', { method: 'POST' });
          const token = decodeURIComponent(cookie.split('=')[1]!);
          const { createdAt } = await right.call<Shown>('get', token);
          await Promise.all(
            all.map(async (viewer) => {
              // Good to the network delay with which the store's clock is known.
              const recent = async () => (await ask(viewer, 'recent', { cookie })).status === 200;
              await waitFor(async () => !(await recent()), { timeoutMs: 20_000 });
              expect(await trueNow()).toBeGreaterThan(createdAt + 2 * SECOND - 100);
            }),
          );
          for (const viewer of all) expect((await ask(viewer, 'look', { cookie })).status).toBe(200);
        }),
      );
    });

    it('what has expired is swept and told of once, what lives stays', async () => {
      const lives = await ahead.call<Shown>('create', {}, { userId: 'swept', idleTimeout: '40m' });
      const ends = await behind.call<Shown>('create', {}, { userId: 'swept', idleTimeout: 2 * SECOND });
      const heard = () =>
        [ahead, behind].flatMap(({ events }) =>
          events.filter(({ event, id }) => event === 'expired' && id === ends.id),
        );
      await waitFor(() => heard().length > 0, { timeoutMs: 30_000 });
      expect(await trueNow()).toBeGreaterThanOrEqual(ends.expiresAt);
      await waitFor(async () => (await redis.exists(recordKey(prefix, ends.id))) === 0);
      expect(heard()).toHaveLength(1);
      expect(await redis.exists(recordKey(prefix, lives.id))).toBe(1);
      expect(await behind.call('ofUser', 'swept')).toEqual([lives.id]);
    });
  });

  describe('set while they run', () => {
    const state = () =>
      jumper.call<{ live: boolean; epoch: number; epochs: number; heartbeats: number }>('state');
    const live = () => waitFor(async () => (await state()).live, { timeoutMs: 20_000 });
    /** A session of which the process has a copy. */
    async function copied(options: object = {}): Promise<Shown> {
      await live();
      const made = await right.call<Shown>('create', {}, options);
      await waitFor(async () => (await jumper.call<Shown>('get', made.token)).source === 'cache');
      return made;
    }

    it('an hour forward: no session ends, none is prolonged, and copies are served again', async () => {
      const made = await copied();
      const short = await copied({ idleTimeout: 3 * SECOND });
      await jumper.call('hold', made.token);
      clock.set('+1h');
      expect(await jumper.call<number>('wall')).toBeGreaterThan(Date.now() + HOUR - MINUTE);
      expect(await jumper.call<Shown>('held')).toMatchObject({ valid: true, expiresAt: made.expiresAt });
      expect((await jumper.call<Shown>('held')).expiresIn).toBeGreaterThan(29 * MINUTE);
      const seen = await jumper.call<Shown>('get', made.token);
      expect(seen).toMatchObject({ source: 'store', expiresAt: made.expiresAt });
      expect(seen.expiresIn).toBeGreaterThan(29 * MINUTE);
      await live();
      await waitFor(async () => (await jumper.call<Shown>('get', made.token)).source === 'cache');
      await endsAt(short.expiresAt, async () => (await jumper.call('get', short.token)) !== null);
      expect(await right.call('get', made.token)).not.toBeNull();
    });

    it('two hours back: copies go on being served, under the same lease, and to their end only', async () => {
      clock.set('+1h');
      const made = await copied();
      const short = await copied({ idleTimeout: 3 * SECOND });
      const before = await state();
      clock.set('-1h');
      expect(await jumper.call('get', made.token)).toMatchObject({ source: 'cache', valid: true });
      // The heart beats on, though no wall clock comes to the next beat for two hours.
      await waitFor(async () => (await state()).heartbeats >= before.heartbeats + 3, { timeoutMs: 20_000 });
      expect((await state()).epoch).toBe(before.epoch);
      await endsAt(short.expiresAt, async () => (await jumper.call('get', short.token)) !== null);
      expect(await right.call('destroy', made.token)).toBe(true);
      await waitFor(async () => (await jumper.call('get', made.token)) === null);
    });

    it('a cookie that is being sent lives as long as its session, and no token is replaced before its time', async () => {
      const login = await ask(jumper, 'login', { method: 'POST' });
      for (const offset of ['+1h', '-1h', '+0'] as const) {
        const from = jumper.events.length;
        const answer = ask(jumper, 'slow', { cookie: login.cookie });
        await jumper.event('slow', { from, timeoutMs: 20_000 });
        clock.set(offset);
        await jumper.call('release');
        const { status, cookie, maxAge } = await answer;
        expect([status, cookie]).toEqual([200, login.cookie]);
        expect(maxAge).toBeGreaterThan(1_700);
        expect(maxAge).toBeLessThanOrEqual(1_800);
        const look = await ask(jumper, 'look', { cookie: login.cookie });
        expect([look.status, look.cookie]).toEqual([200, login.cookie]);
        expect(look.maxAge).toBeGreaterThan(1_700);
      }
    });

    // COHERENCE rule 5: the steady clock stands still in a suspended machine, and so do its timers.
    it('a machine that slept for longer than the lease serves no copy, though no heartbeat has come to see it', async () => {
      clock.set('+0');
      const made = await copied();
      link.blackhole({ downstream: true }); // what is told meanwhile is lost to it
      try {
        expect(await right.call('destroy', made.token)).toBe(true);
        expect(await right.call('get', made.token)).toBeNull();
        // Within its lease it may, and so it does: without the sleep this test would see a copy.
        expect(await jumper.call('get', made.token)).toMatchObject({ source: 'cache' });
        clock.set('+21s');
        expect(await jumper.call('get', made.token)).toBeNull();
      } finally {
        link.resume();
      }
      await live();
    });

    it('a Redis that was away is found again at once, however far the clock was set back meanwhile', async () => {
      clock.set('+0');
      const made = await copied();
      commands.refuse(true);
      commands.cutAll();
      try {
        const failed = () =>
          jumper.call('get', made.token, { fresh: true }).then(
            () => '',
            (error: Error) => error.name,
          );
        // The breaker is open after three that were not answered.
        for (let n = 0; n < 4; n++) expect(await failed()).toBe('SessionStoreUnavailableError');
        clock.set('-1h');
      } finally {
        commands.refuse(false);
      }
      await waitFor(async () => (await jumper.call('get', made.token, { fresh: true })) !== null, {
        timeoutMs: 20_000,
      });
      await live();
    });
  });

  describe('set while they run, the monotonic clock with it', () => {
    it('an hour forward, every timer firing at once: no session ends, and copies are served again', async () => {
      const made = await right.call<Shown>('create', {});
      const short = await right.call<Shown>('create', {}, { idleTimeout: 3 * SECOND });
      await waitFor(async () => (await leaper.call<Shown>('get', made.token)).source === 'cache');
      wholeClock.set('+1h');
      await waitFor(async () => (await leaper.call<Shown>('get', made.token)).source === 'cache', {
        timeoutMs: 20_000,
      });
      const seen = await leaper.call<Shown>('get', made.token);
      expect(seen).toMatchObject({ expiresAt: made.expiresAt, valid: true });
      expect(seen.expiresIn).toBeGreaterThan(29 * MINUTE);
      await endsAt(short.expiresAt, async () => (await leaper.call('get', short.token)) !== null);
      expect(await right.call('get', made.token)).not.toBeNull();
    });
  });
});

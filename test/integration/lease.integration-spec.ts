// The lease of the near cache over a real Redis: its states and what they say, its options, and what each link's loss does.
// Shown to fail when a proof is dated by its answer, when a lapsed lease comes back by itself, and when leaseMs or
// heartbeatMs are not the option's.
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { SessionEventMap, SessionModuleOptions } from '../../lib/index.js';
import type { Clock } from '../../lib/core/clock.js';
import { SessionEvents } from '../../lib/events/session-events.js';
import { resolveSessionOptions } from '../../lib/options/resolve-session-options.js';
import { RedisSubscriber } from '../../lib/pubsub/redis.subscriber.js';
import { openOwnClient } from '../../lib/store/redis-client.js';
import { RedisSessionStore } from '../../lib/store/redis-session.store.js';
import { ManualClock } from '../support/manual-clock.js';
import { RedisMonitor } from '../support/redis-monitor.js';
import { RedisServer } from '../support/redis-server.js';
import { uniquePrefix } from '../support/redis-url.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { openNode, type SessionNode } from './session-node.js';

type LeaseEvent = SessionEventMap['lease'];

describe('the lease', () => {
  let server: RedisServer;
  let prefix: string;
  const closing: (() => unknown)[] = [];
  beforeAll(async () => {
    server = await RedisServer.start();
  });
  afterAll(() => server.stop());
  beforeEach(() => {
    prefix = uniquePrefix();
  });
  afterEach(async () => {
    for (const close of closing.splice(0).toReversed()) await close();
  });

  async function open(options: SessionModuleOptions = {}, live = true): Promise<SessionNode> {
    const node = await openNode({ redis: server.url, keyPrefix: prefix, ...options }, { live });
    closing.push(() => node.close());
    return node;
  }
  async function proxyTo(): Promise<TcpProxy> {
    const proxy = await TcpProxy.start({ targetPort: server.port });
    closing.push(() => proxy.close());
    return proxy;
  }
  async function privateServer(): Promise<RedisServer> {
    const own = await RedisServer.start();
    closing.push(() => own.stop());
    return own;
  }
  function listen(events: SessionEvents): LeaseEvent[] {
    const heard: LeaseEvent[] = [];
    events.on('lease', (event) => heard.push(event));
    return heard;
  }
  /** A subscriber and its store by hand, before it starts and with a clock of the test's. */
  async function build(
    {
      redis = server.url,
      subscriber = redis,
      ...coherence
    }: { redis?: string; subscriber?: string; leaseMs?: number; heartbeatMs?: number } = {},
    clock?: Clock,
  ) {
    const options = resolveSessionOptions({ redis, keyPrefix: prefix, instanceId: 'me', coherence });
    const events = new SessionEvents();
    const heard = listen(events);
    const store = new RedisSessionStore(
      (purpose) => openOwnClient(redis, `c${purpose}`, 2_000),
      options,
      events,
    );
    await store.open();
    closing.push(() => store.close());
    const source = new RedisSubscriber(
      {
        connect: () => openOwnClient(subscriber, 's', options.coherence.leaseMs),
        channel: store.channel,
        commands: store.connection.linkOf(0)!,
        instanceId: 'me',
        ...options.coherence,
      },
      events,
      false,
      clock,
    );
    closing.push(() => source.close());
    return { source, heard, store };
  }

  describe('connections that come and go', () => {
    /** A subscriber whose store connection answers as the test says; `real` asks the true one. */
    async function buildOver(runId: (call: number, real: () => Promise<string>) => Promise<string>) {
      const link = await proxyTo();
      const { store } = await build();
      const events = new SessionEvents();
      const heard = listen(events);
      const clients: Redis[] = [];
      let calls = 0;
      const connection = store.connection.linkOf(0)!;
      const source = new RedisSubscriber(
        {
          connect: async () => {
            const client = await openOwnClient(link.url, 's', 2_000);
            clients.push(client);
            return client;
          },
          channel: store.channel,
          commands: {
            onLost: (listener) => connection.onLost(listener),
            serverRunId: () => runId(++calls, () => connection.serverRunId()),
            serverRole: () => connection.serverRole(),
            exists: (key) => connection.exists(key),
            suspect: (why) => connection.suspect(why),
          },
          instanceId: 'me',
          leaseMs: 2_000,
          heartbeatMs: 500,
        },
        events,
        false,
      );
      closing.push(() => source.close());
      await source.start();
      return { source, heard, link, client: () => clients[0]! };
    }

    it('an end of the connection while it is being opened, the store away just then, is recovered from', async () => {
      const built = await buildOver(async (call, real) => {
        if (call > 1) return real();
        built.client().disconnect(); // as ioredis ends it on a Sentinel's notice: for good
        await delay(20);
        throw new Error('the store has lost its connection');
      });
      await waitFor(() => built.source.live, { timeoutMs: 3_000 });
      expect(built.source.counts.epochs).toBe(1);
    });

    it('a failed opening does not end the epoch that began after it', async () => {
      const { source, heard, link } = await buildOver((call, real) =>
        call === 1 ? Promise.reject(new Error('away')) : real(),
      );
      await waitFor(() => link.accepted >= 1);
      link.cutAll(); // it comes back before its next try would be due
      await waitFor(() => source.live);
      await delay(600); // longer than that try could be
      expect(heard.map(({ state }) => state)).toEqual(['live']);
      expect(source.counts.epochs).toBe(1);
    });

    it('an opening that fails again and again is tried ever more seldom', async () => {
      const { link } = await buildOver(() => Promise.reject(new Error('never')));
      await delay(3_000); // the time it is given
      expect(link.accepted).toBeGreaterThanOrEqual(3);
      expect(link.accepted).toBeLessThanOrEqual(6);
    });

    it('close() while it starts leaves no connection behind', async () => {
      const { store } = await build();
      let made: Redis | undefined;
      const source = new RedisSubscriber(
        {
          connect: async () => {
            await delay(20);
            return (made = await openOwnClient(server.url, 's', 2_000));
          },
          channel: store.channel,
          commands: store.connection.linkOf(0)!,
          instanceId: 'me',
          leaseMs: 2_000,
          heartbeatMs: 500,
        },
        new SessionEvents(),
        false,
      );
      const starting = source.start();
      await source.close();
      await starting;
      await waitFor(() => made?.status === 'end');
    });
  });

  describe('states', () => {
    it('connecting until the subscription stands, then live, then suspended when it is closed', async () => {
      const link = await proxyTo();
      link.refuse(true);
      const { source, heard } = await build({ subscriber: link.url });
      expect(source.state).toBe('connecting');
      await source.start();
      await waitFor(() => link.refused > 2);
      expect([source.state, source.live, source.proofAge]).toEqual(['connecting', false, null]);
      expect(source.counts).toMatchObject({ epochs: 0, heartbeats: 0 });
      expect(heard).toEqual([]);
      link.refuse(false);
      await waitFor(() => source.live);
      expect(source.state).toBe('live');
      expect(source.counts.epochs).toBe(1);
      expect(heard).toEqual([{ state: 'live', epoch: source.epoch, reason: null }]);
      await source.close();
      expect([source.state, source.live, source.proofAge]).toEqual(['suspended', false, null]);
      expect(heard.slice(1)).toEqual([
        { state: 'suspended', epoch: source.epoch, reason: 'the app is shutting down' },
      ]);
    });

    it('off without a link, live only where this process is the only writer', () => {
      for (const exclusive of [true, false]) {
        const source = new RedisSubscriber(null, new SessionEvents(), exclusive);
        expect([source.state, source.live, source.proofAge, source.epoch]).toEqual([
          'off',
          exclusive,
          null,
          0,
        ]);
      }
    });

    it('the loss of the subscriber link: suspended at once, with the reason, and live again in a new epoch', async () => {
      const link = await proxyTo();
      const node = await open({ subscriber: link.url });
      const heard = listen(node.events);
      const { epoch } = node.subscriber;
      link.cutAll();
      await waitFor(() => heard.length === 2);
      expect(heard[0]).toMatchObject({ state: 'suspended', reason: 'the subscriber connection was lost' });
      expect(heard[1]).toMatchObject({ state: 'live', reason: null });
      expect(heard[0]!.epoch).toBeGreaterThan(epoch);
      expect(node.subscriber.epoch).toBe(heard[1]!.epoch);
      expect(node.subscriber.counts.epochs).toBe(2);
    });

    it('the loss of the command link: the same, with its reason', async () => {
      const link = await proxyTo();
      const node = await open({ redis: link.url, subscriber: server.url });
      const heard = listen(node.events);
      link.cutAll();
      await waitFor(() => heard.length === 2);
      expect(heard[0]).toMatchObject({ state: 'suspended', reason: 'the command connection was lost' });
      expect(heard[1]).toMatchObject({ state: 'live' });
      expect(node.subscriber.counts.epochs).toBe(2);
    });

    it('a server that falls silent: suspended leaseMs after the last proof, and live again within 3 s after it speaks', async () => {
      const own = await privateServer();
      const node = await open({ redis: own.url, coherence: { leaseMs: 300 } });
      const heard = listen(node.events);
      const { token } = await node.sessions.create({ n: 1 });
      await own.pause();
      const paused = performance.now();
      while (node.subscriber.live) {
        // Served from the cache as long as the lease holds.
        expect((await node.sessions.get(token))?.source).toBe('cache');
        await delay(1);
      }
      expect(node.subscriber.state).toBe('suspended');
      const held = performance.now() - paused;
      expect(held).toBeGreaterThan(150); // the proof was up to a heartbeat (75 ms) old
      expect(held).toBeLessThan(400);
      await waitFor(() => heard.length > 0);
      expect(heard[0]).toMatchObject({ state: 'suspended' });
      expect(heard[0]!.reason).toMatch(/no proof for 300 ms|connection was lost/);
      own.resume();
      const resumed = performance.now();
      await waitFor(() => node.subscriber.live);
      expect(performance.now() - resumed).toBeLessThan(3_000);
      expect(await node.sessions.get(token)).toMatchObject({ data: { n: 1 } });
    });
  });

  describe('a suspended machine', () => {
    it('the lease is over at once, and does not come back: a new epoch begins on a new connection', async () => {
      const clock = new ManualClock();
      const { source, heard } = await build({ leaseMs: 2_000, heartbeatMs: 50 }, clock);
      await source.start();
      await waitFor(() => source.live);
      const { epoch } = source;
      clock.advance(1_999);
      expect(source.isLiveAt(clock.monotonic())).toBe(true);
      clock.advance(1);
      // Seen by whoever asks, before any timer has run.
      expect([source.live, source.state]).toEqual([false, 'suspended']);
      await waitFor(() => heard.length === 3);
      expect(heard.map(({ state, reason }) => [state, reason])).toEqual([
        ['live', null],
        ['suspended', 'no proof for 2000 ms'],
        ['live', null],
      ]);
      expect(source.epoch).toBeGreaterThan(epoch);
      expect(source.counts.epochs).toBe(2);
    });

    it('an answer that comes after the lease has lapsed does not open it again', async () => {
      const clock = new ManualClock();
      const link = await proxyTo();
      const { source } = await build({ subscriber: link.url, leaseMs: 2_000, heartbeatMs: 50 }, clock);
      await source.start();
      await waitFor(() => source.counts.heartbeats > 2);
      link.blackhole({ downstream: true });
      const { epoch, counts } = source;
      await delay(120); // a heartbeat is on its way, and its answer held
      clock.advance(2_001);
      link.resume();
      await waitFor(() => source.epoch > epoch);
      expect(source.counts.heartbeats - counts.heartbeats).toBeLessThanOrEqual(1);
      await waitFor(() => source.live);
      expect(source.counts.epochs).toBe(2);
    });

    it('an answer that took 150 ms proves nothing about these 150 ms', async () => {
      const link = await proxyTo();
      const node = await open({ subscriber: link.url, coherence: { leaseMs: 1_000, heartbeatMs: 20 } });
      link.delay({ downstreamMs: () => 150 });
      await delay(300); // every answer before it has come in
      const { heartbeats } = node.subscriber.counts;
      const ages: number[] = [];
      for (let i = 0; i < 100; i++) {
        ages.push(node.subscriber.proofAge ?? Infinity);
        await delay(3);
      }
      expect(node.subscriber.counts.heartbeats - heartbeats).toBeGreaterThan(5);
      expect(Math.min(...ages)).toBeGreaterThanOrEqual(149);
      expect(Math.max(...ages)).toBeLessThan(1_000);
    });

    it('proofAge counts from when it was sent', async () => {
      const clock = new ManualClock();
      const { source } = await build({ leaseMs: 60_000, heartbeatMs: 30_000 }, clock);
      await source.start();
      await waitFor(() => source.live);
      expect(source.proofAge).toBe(0);
      clock.advance(700);
      expect(source.proofAge).toBe(700);
    });
  });

  describe('coherence', () => {
    it.each([
      [3, /"role"$/i],
      [2, /"(role|ping)"$/i],
    ] as const)(
      'heartbeatMs on RESP%i: as many questions as it says, each a proof',
      async (protocol, question) => {
        const own = await privateServer();
        const redis = { host: '127.0.0.1', port: own.port, protocol };
        const node = await open({ redis, coherence: { leaseMs: 1_000, heartbeatMs: 50 } });
        const monitor = await RedisMonitor.open(own.url);
        closing.push(() => monitor.close());
        const { heartbeats } = node.subscriber.counts;
        const began = performance.now();
        const ages: number[] = [];
        while (performance.now() - began < 1_000) {
          ages.push(node.subscriber.proofAge ?? Infinity);
          await delay(5);
        }
        await monitor.sync();
        const beats = node.subscriber.counts.heartbeats - heartbeats;
        expect(beats).toBeGreaterThan(12);
        expect(beats).toBeLessThanOrEqual(21);
        const asked = monitor.commandsMatching(question).length;
        // And one more: the store's connection looks to its server's role for itself.
        const each = protocol === 2 ? 3 : 2;
        expect(asked).toBeGreaterThanOrEqual((beats - 1) * each);
        expect(asked).toBeLessThanOrEqual((beats + 2) * each);
        expect(ages.toSorted((a, b) => a - b)[Math.floor(ages.length / 2)]).toBeLessThanOrEqual(75);
      },
    );

    it('the default is a heartbeat every 500 ms', async () => {
      const node = await open();
      const { heartbeats } = node.subscriber.counts;
      await delay(1_300); // time itself is what is looked at
      expect(node.subscriber.counts.heartbeats - heartbeats).toBeOneOf([2, 3]);
    });

    it('leaseMs: a link without answers is trusted for that long, and no longer', async () => {
      const held: number[] = [];
      for (const leaseMs of [200, 800]) {
        const link = await proxyTo();
        const node = await open({ subscriber: link.url, coherence: { leaseMs, heartbeatMs: 20 } });
        await waitFor(() => node.subscriber.counts.heartbeats > 1);
        link.blackhole();
        const began = performance.now();
        await waitFor(() => !node.subscriber.live, { intervalMs: 1 });
        held.push(performance.now() - began);
        link.resume();
      }
      expect(held[0]).toBeGreaterThan(120);
      expect(held[0]).toBeLessThan(260);
      expect(held[1]).toBeGreaterThan(700);
      expect(held[1]).toBeLessThan(900);
    });

    it('no timer and no heartbeat is left after close()', async () => {
      const own = await privateServer();
      const node = await open({ redis: own.url, coherence: { leaseMs: 100, heartbeatMs: 10 } });
      await waitFor(() => node.subscriber.counts.heartbeats > 3);
      await node.close();
      const monitor = await RedisMonitor.open(own.url);
      closing.push(() => monitor.close());
      const { heartbeats } = node.subscriber.counts;
      await delay(100); // nothing is to happen
      await monitor.sync();
      expect(monitor.commandsMatching(/"(role|ping|info|subscribe|hello)"/i)).toEqual([]);
      expect(node.subscriber.counts.heartbeats).toBe(heartbeats);
    });
  });

  describe.each([3, 2] as const)('over RESP%i', (protocol) => {
    const options = () => ({ redis: { host: '127.0.0.1', port: server.port, protocol } });

    it('copies are served, and changes by others arrive', async () => {
      const [reader, writer] = [await open(options()), await open(options())];
      const { token } = await writer.sessions.create({ n: 0 });
      for (let n = 1; n <= 10; n++) {
        await reader.sessions.get(token);
        expect((await reader.sessions.get(token))?.source).toBe('cache');
        await writer.sessions.update(token, { n });
        await waitFor(async () => (await reader.sessions.get(token))?.data.n === n);
      }
      await writer.sessions.destroy(token);
      await waitFor(async () => (await reader.sessions.get(token)) === null);
      expect(reader.subscriber.counts).toMatchObject({ epochs: 1, malformed: 0, messages: 11 });
    });

    it('CLIENT KILL of the subscriber: a new epoch, and the cache serves again', async () => {
      const node = await open(options());
      const { token } = await node.sessions.create({ n: 1 });
      const { epoch } = node.subscriber;
      const admin = new Redis(server.url);
      closing.push(() => admin.disconnect());
      await admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
      await waitFor(() => node.subscriber.epoch > epoch);
      await waitFor(() => node.subscriber.live);
      await node.sessions.get(token);
      expect((await node.sessions.get(token))?.source).toBe('cache');
    });
  });

  describe('counts', () => {
    it('messages counts invalidations, this process’s own among them, malformed everything else', async () => {
      const [node, other] = [await open(), await open()];
      const { token } = await node.sessions.create({}); // a generated token is news to nobody
      await node.sessions.update(token, { n: 1 });
      await other.sessions.update(token, { n: 2 });
      const admin = new Redis(server.url);
      closing.push(() => admin.disconnect());
      await admin.publish(`${prefix}inv`, 'nonsense');
      await other.sessions.destroy(token);
      await waitFor(() => node.subscriber.counts.messages === 3);
      expect(node.subscriber.counts).toMatchObject({ messages: 3, malformed: 1, epochs: 1 });
    });

    it('refusedFills counts fills that a change by another process came before', async () => {
      const [node, other] = [await open(), await open()];
      const { token, id } = await other.sessions.create({ n: 1 });
      const { store } = await build();
      const ticket = node.cache.reserve(id);
      const loaded = (await store.get(id))!; // what a read brings that is under way from here on
      await other.sessions.update(token, { n: 2 });
      await waitFor(() => node.subscriber.counts.messages === 1);
      expect(node.cache.set(ticket, token, loaded)).toBe(false);
      expect(node.subscriber.counts.refusedFills).toBe(1);
      expect(node.cache.stats().refusedFills).toBe(1);
    });
  });
});

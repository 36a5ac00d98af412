// Shown to fail when every read asks for the time, when a session that has ended is taken for alive by an estimate, and
// when what one server told is kept for the one that comes after it.
import { Redis } from 'ioredis';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { SessionEvents } from '../../lib/events/session-events.js';
import { openOwnClient } from '../../lib/store/redis-client.js';
import { RedisSessionStore } from '../../lib/store/redis-session.store.js';
import { newSession } from '../../lib/testing/kit.js';
import { RedisMonitor } from '../support/redis-monitor.js';
import { RedisServer } from '../support/redis-server.js';
import { waitFor } from '../support/wait-for.js';
import { openNode, recordKey, type SessionNode } from './session-node.js';

const PREFIX = 'server-time:';

describe('reads and the clock of the server', () => {
  let server: RedisServer;
  let node: SessionNode;
  let monitor: RedisMonitor;
  let redis: Redis;
  afterEach(async () => {
    monitor?.close();
    redis?.disconnect();
    await node?.close();
    await server?.stop();
  });

  async function open(): Promise<void> {
    server = await RedisServer.start();
    redis = new Redis(server.url);
    node = await openNode({ redis: server.url, keyPrefix: PREFIX, cache: false, sweepInterval: '1h' });
    monitor = await RedisMonitor.open(server.url);
  }

  /** Epoch milliseconds. */
  async function serverNow(): Promise<number> {
    const [seconds, us] = (await redis.time()) as unknown as [string, string];
    return Number(seconds) * 1_000 + Number(us) / 1_000;
  }

  /** Names of the reads' commands since the last call. */
  async function sent(): Promise<string[]> {
    await monitor.sync();
    const names = monitor.lines.map((line) => /\] "(\w+)"/.exec(line)?.[1]?.toLowerCase() ?? '');
    monitor.clear();
    return names.filter((name) => name === 'get' || name === 'time');
  }

  it('one read after the other asks TIME once a second, however many they are', async () => {
    await open();
    const { token } = await node.sessions.create({ name: 'Ada' });
    await sent();
    const began = performance.now();
    for (let read = 0; read < 100; read++)
      expect((await node.sessions.get(token))?.data).toEqual({ name: 'Ada' });
    const seconds = Math.ceil((performance.now() - began) / 1_000);
    const names = await sent();
    expect(names[0]).toBe('time');
    expect(names.filter((name) => name === 'get')).toHaveLength(100);
    expect(names.filter((name) => name === 'time').length).toBeLessThanOrEqual(seconds);
  });

  it('a session whose time is up is not read, though its key is still there: the server itself is asked', async () => {
    await open();
    const lasting = await node.sessions.create({});
    const { token, id, expiresAt } = await node.sessions.create({}, { idleTimeout: 1_000 });
    for (;;) {
      const before = await serverNow();
      if ((await node.sessions.get(token)) === null) break;
      expect(before).toBeLessThan(expiresAt!);
      await node.sessions.get(lasting.token);
    }
    expect(await redis.exists(recordKey(PREFIX, id))).toBe(1);
    await node.sessions.get(lasting.token); // so that an estimate is there
    await sent();
    expect(await node.sessions.get(token)).toBeNull();
    expect(await sent()).toEqual(['get', 'time', 'get']);
    expect(await node.sessions.get(lasting.token)).not.toBeNull();
  });

  it('a session that ends while Redis stands still is not read by what was known before', async () => {
    await open();
    const lasting = await node.sessions.create({});
    const { token, expiresAt } = await node.sessions.create({}, { idleTimeout: 1_000 });
    const left = async () => expiresAt! - (await serverNow());
    await waitFor(async () => (await left()) < 150, { intervalMs: 5 });
    await node.sessions.get(lasting.token); // so that an estimate is there
    await server.pause();
    const reading = node.sessions.get(token);
    await delay(400);
    server.resume();
    expect(await reading).toBeNull();
  });

  it('a token that was rotated away leads on until its time by the clock of the server, however late that told its time', async () => {
    server = await RedisServer.start();
    redis = new Redis(server.url);
    const store = new RedisSessionStore(
      () => openOwnClient(server.url, 'server-time', 5_000),
      {
        keyPrefix: PREFIX,
        partitions: 16,
        index: false,
        instanceId: 'server-time',
        commandTimeoutMs: 5_000,
        waitForReplicas: 0,
        coherence: { leaseMs: 2_000, heartbeatMs: 500 },
      },
      new SessionEvents(),
    );
    onTestFinished(() => store.close());
    await store.open();
    const created = await store.create(newSession({ userId: 'ann' }));
    if (created.status !== 'created') throw new Error(created.status);
    const { record } = created;
    const next = newSession({ userId: 'ann', alias: { keepMs: 30_000, readMs: 500 } });
    expect((await store.move(record, next)).status).toBe('moved');
    const until = Number((await redis.get(recordKey(PREFIX, record.id)))!.slice(26));
    await server.pause();
    const asked = store.get(next.id); // the first to ask the time
    await delay(300);
    server.resume();
    await asked;
    while ((await store.get(record.id)) !== null) expect(await serverNow()).toBeLessThan(until + 5_000);
    expect(await serverNow()).toBeGreaterThanOrEqual(until);
  });

  it('a link made anew asks anew: another server may be at its end', async () => {
    await open();
    const { token } = await node.sessions.create({});
    await sent();
    await node.sessions.get(token);
    await node.sessions.get(token);
    expect(await sent()).toEqual(['time', 'get', 'get']);
    const clients = (await redis.client('LIST')) as string;
    const own = /^id=(\d+) .* name=sessionkit:/m.exec(clients)?.[1];
    await redis.client('KILL', 'ID', Number(own));
    await waitFor(async () => !new RegExp(`^id=${own} `, 'm').test((await redis.client('LIST')) as string));
    expect(await node.sessions.get(token)).not.toBeNull();
    expect((await sent()).slice(-2)).toEqual(['time', 'get']);
  });
});

import { Redis } from 'ioredis';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dumpAllKeys, RedisMonitor } from '../support/redis-monitor.js';
import { NodeWorker } from '../support/node-worker.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { openNode, recordKey } from './session-node.js';

interface Closed {
  id?: string;
  results: string[];
  left: string[];
}

const EXIT_WITHIN_MS = 2_000;
const EVERY_SECOND = '* * * * * *';

describe('shutdown', () => {
  let server: RedisServer;
  let redis: Redis;
  let worker: NodeWorker;

  beforeEach(async () => {
    server = await RedisServer.start();
    redis = new Redis(server.url);
    redis.on('error', () => undefined);
    worker = await NodeWorker.start(new URL('./workers/shutdown-worker.mjs', import.meta.url));
  });
  afterEach(async () => {
    if (worker.exit === null) await worker.kill();
    redis.disconnect();
    await server.stop();
  });

  /** Connections to the server besides ours. */
  async function connections(): Promise<string[]> {
    const list = String(await redis.client('LIST'));
    return list.split('\n').filter((line) => / name=sessionkit/.test(line));
  }

  it.each([
    ['Redis, with the app’s scheduler', { schedule: true }],
    ['Redis, without one', { schedule: false }],
  ])('on %s: app.close() leaves nothing, the process exits by itself within 2 s', async (_, settings) => {
    await worker.call('boot', { redis: server.url, cache: { clearCron: EVERY_SECOND } }, settings);
    if (settings.schedule) expect(await worker.call('jobs')).toEqual(['sessionkit:cache-clear']);
    await worker.call('work');
    expect(await connections()).toHaveLength(2);
    expect(await worker.call<string[]>('loaded', 'ioredis')).not.toEqual([]); // so that its absence elsewhere tells something
    const { left } = await worker.call<Closed>('close');
    expect(left).toEqual([]);
    await waitFor(async () => (await connections()).length === 0);
    expect(await worker.stop({ timeoutMs: EXIT_WITHIN_MS })).toBe(0);
    expect(worker.output).toBe('');
  });

  it('on the memory store: the same, and ioredis is never loaded', async () => {
    await worker.call('boot', { cache: { clearCron: EVERY_SECOND } });
    await worker.call('work');
    expect(await worker.call('loaded', 'ioredis')).toEqual([]);
    const { left, results } = await worker.call<Closed>('close', { pending: true });
    expect(left).toEqual([]);
    expect(results).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'fulfilled']);
    expect(await worker.stop({ timeoutMs: EXIT_WITHIN_MS })).toBe(0);
  });

  it('a process closed while Redis is down, or frozen, still exits within 2 s', async () => {
    await worker.call('boot', { redis: server.url, cache: { clearCron: EVERY_SECOND } });
    await worker.call('work');
    await server.kill();
    await worker.call('close');
    expect(await worker.stop({ timeoutMs: EXIT_WITHIN_MS })).toBe(0);

    await server.restart();
    worker = await NodeWorker.start(new URL('./workers/shutdown-worker.mjs', import.meta.url));
    await worker.call('boot', { redis: server.url });
    await server.pause();
    const begun = performance.now();
    await worker.call('close');
    expect(performance.now() - begun).toBeLessThan(EXIT_WITHIN_MS);
    expect(await worker.stop({ timeoutMs: EXIT_WITHIN_MS })).toBe(0);
    server.resume();
  });

  it('writes that began just before app.close() are finished', async () => {
    await worker.call('boot', { redis: server.url });
    const { id, results, left } = await worker.call<Closed>('close', { pending: true });
    expect(results).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'fulfilled']);
    expect(left).toEqual([]);
    expect(await redis.get(recordKey('sk:', id ?? ''))).toContain('at the last moment');
    // The saved one, the created one, and what regenerate made of the third.
    const records = await Promise.all((await redis.keys('sk:*:s:*')).map((key) => redis.get(key)));
    expect(records.map((text) => (text ?? '').slice(0, 1)).toSorted()).toEqual(['1', '1', '1']);
    expect(await worker.stop({ timeoutMs: EXIT_WITHIN_MS })).toBe(0);
  });

  it('writes under way over a slow link, or one that is cut, are finished before the connection closes', async () => {
    const proxy = await TcpProxy.start({ targetPort: server.port });
    try {
      proxy.delay({ upstreamMs: () => 15, downstreamMs: () => 15 });
      for (const cut of ['none', 'save', 'destroy', 'create'] as const) {
        const node = await openNode({ redis: proxy.url });
        const [kept, doomed] = [await node.sessions.create({}), await node.sessions.create({})];
        const ids = [kept.id, doomed.id].map((id) => recordKey('sk:', id));
        const writes: Promise<unknown>[] = [];
        if (cut !== 'none') void proxy.cutAfterRequest((chunk) => chunk.includes('}:exp'));
        if (cut === 'none' || cut === 'save') writes.push(kept.set('saved', true));
        if (cut === 'none' || cut === 'destroy') writes.push(doomed.destroy());
        if (cut === 'none' || cut === 'create') writes.push(node.sessions.create({ late: true }));
        await node.close();
        expect(await Promise.allSettled(writes), cut).toMatchObject(
          writes.map(() => ({ status: 'fulfilled' })),
        );
        if (writes.length === 3 || cut === 'save') expect(await redis.get(ids[0] ?? '')).toContain('saved');
        if (writes.length === 3 || cut === 'destroy') expect(await redis.exists(ids[1] ?? '')).toBe(0);
      }
    } finally {
      await proxy.close();
    }
  });

  it('a client the user passed in stays open and as it was; its db is used, its keyPrefix is not', async () => {
    const monitor = await RedisMonitor.open(server.url);
    await worker.call('boot', { redis: server.url }, { withUserClient: true });
    await worker.call('work');
    expect(await connections()).toHaveLength(2);
    interface Used {
      status: string;
      value: string;
      options: object;
      info: string;
    }
    const expected = {
      status: 'ready',
      value: 'v',
      options: { keyPrefix: 'users-own:', db: 3 },
      info: expect.stringMatching(/ db=3 sub=0 psub=0 ssub=0 /) as string,
    };
    expect(await worker.call<Used>('useClient')).toMatchObject(expected);
    await worker.call('close');
    expect(await connections()).toHaveLength(0);
    expect(await worker.call<Used>('useClient')).toMatchObject(expected);
    expect(await dumpAllKeys(server.url)).toMatch(/^db3 string ttl=-1 sk:layout$/m);

    await monitor.sync();
    monitor.close();
    const address = /addr=(\S+)/.exec((await worker.call<Used>('useClient')).info)?.[1] ?? '';
    const own = monitor.lines.filter((line) => line.includes(` ${address}]`)).join('\n');
    expect(own).toContain('"users-own:k"');
    expect(own).not.toMatch(/subscribe|eval|sk:/i); // nothing of ours went over it
    const ours = monitor.lines.filter((line) => /sk:/.test(line));
    expect(ours.length).toBeGreaterThan(5);
    expect(ours.filter((line) => !line.includes('[3 '))).toEqual([]);
    expect(ours.filter((line) => line.includes('users-own:'))).toEqual([]);
    await worker.call('endClient');
    expect(await worker.stop({ timeoutMs: EXIT_WITHIN_MS })).toBe(0);
  });

  it('settings of the user’s client that would change replies or deadlines do not reach our copies', async () => {
    const client = new Redis(server.url, {
      stringNumbers: true,
      replyMapping: 'resp3',
      keyPrefix: 'x:',
      commandTimeout: 5,
      enableAutoPipelining: true,
      maxRetriesPerRequest: 20,
      retryStrategy: () => null,
      lazyConnect: true,
    });
    const node = await openNode({ redis: client });
    const session = await node.sessions.create({ n: 1 }, { userId: 'ada' });
    await session.set('n', 2);
    expect(await node.sessions.touch(session.token)).not.toBeNull();
    expect((await node.registry.getUserSessions('ada')).map(({ id }) => id)).toEqual([session.id]);
    await server.pause();
    const late = node.sessions.update(session.token, { n: 3 });
    const begun = performance.now();
    await waitFor(() => performance.now() - begun > 50); // ten times the client's own deadline
    server.resume();
    expect((await late).data).toEqual({ n: 3 });
    expect(await node.sessions.destroy(session.token)).toBe(true);
    await node.close();
    expect(client.status).toBe('wait'); // it had not even been connected
    client.disconnect();
  });
});

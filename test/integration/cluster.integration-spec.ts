// The store on a Redis Cluster of three masters and three replicas: the contract of stores, and what only a Cluster has.
import { Cluster } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { partitionOfId } from '../../lib/core/session-token.js';
import { SessionStoreUnavailableError } from '../../lib/errors/state.errors.js';
import { SessionEvents } from '../../lib/events/session-events.js';
import type { SessionModuleOptions } from '../../lib/index.js';
import { openOwnCluster } from '../../lib/store/redis-client.js';
import { RedisSessionStore } from '../../lib/store/redis-session.store.js';
import { describeSessionStore } from '../../lib/testing/index.js';
import { SUITE_PARTITIONS } from '../../lib/testing/kit.js';
import { ClusterSet } from '../support/cluster.js';
import type { RedisServer } from '../support/redis-server.js';
import { testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { CapturingLogger, openNode, type NodeSettings, type SessionNode } from './session-node.js';

const COMMAND_TIMEOUT_MS = 5_000;

let cluster: ClusterSet;
beforeAll(async () => {
  // Masters that hang for a moment are not to be replaced here: see test/faults/cluster.fault-spec.ts.
  cluster = await ClusterSet.start({ nodeTimeoutMs: 30_000 });
}, 60_000);
afterAll(() => cluster?.stop());

async function openClusterStore(prefix = uniquePrefix()): Promise<RedisSessionStore> {
  const store = new RedisSessionStore(
    {
      directory: () => openOwnCluster({ cluster: cluster.nodes }, 'cluster-spec', COMMAND_TIMEOUT_MS),
      connectTo: (directory, node) => directory.connectTo(node, 'cluster-spec', COMMAND_TIMEOUT_MS),
    },
    {
      keyPrefix: prefix,
      partitions: SUITE_PARTITIONS,
      index: { users: true, activity: true },
      instanceId: 'cluster-spec',
      commandTimeoutMs: COMMAND_TIMEOUT_MS,
      waitForReplicas: 0,
      coherence: { leaseMs: 2_000, heartbeatMs: 500 },
    },
    new SessionEvents(),
  );
  await store.open();
  return store;
}

describeSessionStore({ describe, it }, 'RedisSessionStore on a Cluster', async () => {
  const prefix = uniquePrefix();
  const store = await openClusterStore(prefix);
  const peer = await openClusterStore(prefix);
  return { store, peer, close: async () => void (await Promise.all([store.close(), peer.close()])) };
});

describe('a Cluster as an app has it', () => {
  const LEASE = { leaseMs: 1_000, heartbeatMs: 100 };

  function deployment(more: Partial<SessionModuleOptions> = {}): SessionModuleOptions {
    return { redis: { cluster: cluster.nodes }, keyPrefix: uniquePrefix(), coherence: LEASE, ...more };
  }
  async function open(options: SessionModuleOptions, settings?: NodeSettings): Promise<SessionNode> {
    const node = await openNode(options, settings);
    onTestFinished(() => node.close());
    return node;
  }
  /** A session in each partition, by partition. */
  async function oneEach({ sessions }: SessionNode): Promise<string[]> {
    const tokens: string[] = [];
    for (let left = SUITE_PARTITIONS; left > 0;) {
      const { id, token } = await sessions.create({ n: 0 });
      const partition = partitionOfId(id, SUITE_PARTITIONS)!;
      if (tokens[partition] === undefined) left--;
      tokens[partition] = token;
    }
    return tokens;
  }
  const connectionsOf = async (server: RedisServer): Promise<number> =>
    Number(/connected_clients:(\d+)/.exec(await cluster.client(server).info('clients'))![1]);
  const partitionsOf = async (server: RedisServer): Promise<number[]> => {
    const owners = await Promise.all(
      Array.from({ length: SUITE_PARTITIONS }, async (_, partition) =>
        cluster.ownerOf(await cluster.slotOf(`{${partition}}`)),
      ),
    );
    return owners.flatMap((owner, partition) => (owner === server ? [partition] : []));
  };

  it('every key but none outside has the tag of its partition, and lies with its owner', async () => {
    const options = deployment();
    const node = await open(options);
    await oneEach(node);
    const { token } = await node.sessions.create({}, { userId: 'ann' });
    await node.sessions.regenerate(token);
    await node.registry.killUser('ann');
    const keys = (
      await Promise.all(cluster.servers.map((server) => cluster.client(server).keys(`${options.keyPrefix}*`)))
    ).flat();
    expect(keys.length).toBeGreaterThan(SUITE_PARTITIONS);
    for (const key of keys) expect(key.slice(options.keyPrefix!.length)).toMatch(/^\{\d+\}:/);
  });

  it('a change in one process is refused by the copies of the other at once, an end too, in every partition', async () => {
    const options = deployment();
    const [a, b] = [await open(options), await open(options)];
    for (const token of await oneEach(a)) {
      await b.sessions.get(token);
      expect(await b.sessions.get(token)).toMatchObject({ source: 'cache', data: { n: 0 } });
      await a.sessions.update(token, { n: 1 });
      await waitFor(async () => (await b.sessions.get(token))?.data.n === 1, { timeoutMs: 900 });
      await b.sessions.get(token);
      await a.sessions.destroy(token);
      await waitFor(async () => (await b.sessions.get(token)) === null, { timeoutMs: 900 });
    }
  });

  it('a master that hangs suspends its own partitions only, and no others are waited for', async () => {
    const options = deployment({ commandTimeout: '300ms' });
    const node = await open(options);
    const tokens = await oneEach(node);
    const hung = await cluster.ownerOf(await cluster.slotOf('{0}'));
    const theirs = await partitionsOf(hung);
    expect(theirs.length).toBeLessThan(SUITE_PARTITIONS);
    const said: boolean[] = [];
    node.events.on('storeAvailable', ({ available }) => said.push(available));
    await hung.pause();
    try {
      await waitFor(() => node.subscriber.suspended.length > 0);
      expect(node.subscriber.suspended).toEqual(theirs);
      expect(node.subscriber.state).toBe('suspended');
      for (const [partition, token] of tokens.entries()) {
        const asked = node.sessions.get(token);
        if (theirs.includes(partition)) {
          await expect(asked).rejects.toBeInstanceOf(SessionStoreUnavailableError);
        } else {
          expect(await asked).not.toBeNull();
          expect(await node.sessions.get(token)).toMatchObject({ source: 'cache' });
          await node.sessions.update(token, { n: 1 });
        }
      }
    } finally {
      hung.resume();
    }
    await cluster.settled();
    await waitFor(() => node.subscriber.live, { timeoutMs: 10_000 });
    await waitFor(() => said.at(-1) === true);
    expect(said[0]).toBe(false);
    for (const token of tokens) expect(await node.sessions.get(token)).not.toBeNull();
  });

  it('storeAvailable says so as soon as a master has left commands unanswered', async () => {
    const node = await open(deployment({ commandTimeout: '800ms', cache: false }));
    const token = (await oneEach(node))[0]!;
    const said: boolean[] = [];
    node.events.on('storeAvailable', ({ available }) => said.push(available));
    const hung = await cluster.ownerOf(await cluster.slotOf('{0}'));
    await hung.pause();
    try {
      await Promise.allSettled(Array.from({ length: 3 }, () => node.sessions.get(token)));
      expect(said).toEqual([false]);
    } finally {
      hung.resume();
    }
    await cluster.settled();
    await waitFor(() => said.at(-1) === true);
  });

  it('while a slot moves: reads are right, writes are right or 503, nothing is cached; afterwards all is as before', async () => {
    const options = deployment({ commandTimeout: '800ms' });
    const [node, other] = [await open(options), await open(options)];
    // Its heartbeats are too rare to notice anything.
    const slow = await open({
      ...options,
      commandTimeout: '5s',
      coherence: { leaseMs: 60_000, heartbeatMs: 30_000 },
    });
    const made = await Promise.all(Array.from({ length: 400 }, () => slow.sessions.create({ n: 0 })));
    const slot = await cluster.slotOf('{3}');
    const here = made.filter(({ id }) => partitionOfId(id, SUITE_PARTITIONS) === 3);
    expect(here.length).toBeGreaterThan(5);
    const source = await cluster.ownerOf(slot);
    const target = cluster.servers.filter((server) => server !== source);
    const masters = await Promise.all(target.map(async (server) => (await partitionsOf(server)).length > 0));
    const counts = new Map<string, number>();
    await cluster.migrate(slot, target[masters.indexOf(true)]!, async () => {
      await waitFor(() => node.subscriber.suspended.includes(3));
      expect(node.subscriber.suspended).toEqual([3]);
      expect(slow.subscriber.suspended).toEqual([]);
      for (const { token } of here) await slow.sessions.get(token, { fresh: true });
      expect(slow.subscriber.suspended).toEqual([3]); // by the first command that was sent on
      await Promise.all(
        here.map(async ({ token, id }) => {
          const read = await other.sessions.get(token);
          expect(read).toMatchObject({ source: 'store', data: { n: 0 } });
          await node.sessions
            .update(token, ({ n }) => ({ n: Number(n) + 1 }))
            .then(
              () => counts.set(id, 1),
              (error: unknown) =>
                expect(error).toMatchObject({ code: 'SESSION_STORE_UNAVAILABLE', outcomeUnknown: false }),
            );
        }),
      );
    });
    await waitFor(() => node.subscriber.live && other.subscriber.live, { timeoutMs: 10_000 });
    for (const { token, id } of here) {
      await node.sessions.update(token, ({ n }) => ({ n: Number(n) + 1 }));
      expect(await other.sessions.get(token)).toMatchObject({ data: { n: (counts.get(id) ?? 0) + 1 } });
      expect(await other.sessions.get(token)).toMatchObject({ source: 'cache' });
    }
    expect(await node.registry.count()).toBe(400);
  });

  it('a slot that goes and comes back between two heartbeats: what was announced before it is listened to again is not missed', async () => {
    const options = deployment({ partitions: 32, coherence: { leaseMs: 30_000, heartbeatMs: 10_000 } });
    const [writer, reader] = [await open({ ...options, cache: false }), await open(options)];
    let made = await writer.sessions.create({});
    while (partitionOfId(made.id, 32) !== 7) made = await writer.sessions.create({});
    await reader.sessions.get(made.token);
    expect(await reader.sessions.get(made.token)).toMatchObject({ source: 'cache' });
    const slot = await cluster.slotOf('{7}');
    const owner = await cluster.ownerOf(slot);
    const { epoch } = reader.subscriber;
    await cluster.client(owner).multi().cluster('DELSLOTS', slot).cluster('ADDSLOTS', slot).exec();
    await waitFor(() => reader.subscriber.epoch > epoch && reader.subscriber.live, { timeoutMs: 5_000 });
    await cluster.settled();
    await reader.sessions.get(made.token);
    expect(await reader.sessions.get(made.token)).toMatchObject({ source: 'cache' });
    await writer.sessions.destroy(made.token);
    await waitFor(async () => (await reader.sessions.get(made.token)) === null, { timeoutMs: 5_000 });
  });

  it('a slot that nobody owns (CLUSTERDOWN) is 503 for its sessions, and served again once it has an owner', async () => {
    const node = await open(deployment({ commandTimeout: '300ms' }));
    const token = (await oneEach(node))[5]!;
    const slot = await cluster.slotOf('{5}');
    const owner = await cluster.ownerOf(slot);
    await cluster.client(owner).cluster('DELSLOTS', slot);
    await waitFor(async () =>
      String(await cluster.client(owner).cluster('INFO')).includes('cluster_state:fail'),
    );
    const error = await node.sessions.get(token, { fresh: true }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: 'SESSION_STORE_UNAVAILABLE', outcomeUnknown: false });
    await cluster.client(owner).cluster('ADDSLOTS', slot);
    await cluster.settled();
    await waitFor(() => node.sessions.get(token, { fresh: true }).catch(() => null), { timeoutMs: 5_000 });
    await waitFor(() => node.subscriber.live, { timeoutMs: 5_000 });
  });

  it('waitForReplicas: an end waits for a replica of the master that has it', async () => {
    const node = await open(deployment({ waitForReplicas: 1 }));
    for (const token of await oneEach(node)) expect(await node.sessions.destroy(token)).toBe(true);
    const strict = await open(deployment({ waitForReplicas: 2 }));
    const { token } = await strict.sessions.create({});
    await expect(strict.sessions.destroy(token)).rejects.toMatchObject({ code: 'SESSION_NOT_REPLICATED' });
  });

  it.each([2, 3] as const)(
    'an ioredis Cluster of RESP%i is copied, never closed, never subscribed',
    async (protocol) => {
      const client = new Cluster(cluster.nodes, { lazyConnect: true, redisOptions: { protocol } });
      onTestFinished(async () => client.disconnect());
      await client.connect();
      const options = deployment({ redis: client });
      const [a, b] = [await open(options), await open(options)];
      const { token } = await a.sessions.create({ n: 0 });
      await b.sessions.get(token);
      expect(await b.sessions.get(token)).toMatchObject({ source: 'cache' });
      await a.sessions.destroy(token);
      await waitFor(async () => (await b.sessions.get(token)) === null, { timeoutMs: 900 });
      expect(client.status).toBe('ready');
      expect(await client.get('nothing')).toBeNull(); // a subscribed connection of RESP2 would refuse
    },
  );

  it('a subscriber of its own receives with its own settings', async () => {
    const [first] = cluster.servers as [RedisServer];
    const options = deployment({
      subscriber: { cluster: cluster.nodes, redisOptions: { clientInfoTag: 'theirs' } },
    });
    await open(options);
    const list = String(await cluster.client(first).client('LIST'));
    const subscribed = list.split('\n').filter((line) => / ssub=[1-9]/.test(line));
    expect(subscribed.length).toBeGreaterThan(0);
  });

  it('works with the rights that the README names, and keeps nothing without those on the channels', async () => {
    const keyPrefix = uniquePrefix();
    const rights =
      '+@read +@write +@scripting +@connection +info +role +time +asking +cluster|slots +spublish +ssubscribe +sunsubscribe';
    const grant = (...channels: string[]) =>
      Promise.all(
        cluster.servers.map((server) =>
          cluster
            .client(server)
            .acl(
              'SETUSER',
              'app',
              'reset',
              'on',
              '>pass',
              `~${keyPrefix}*`,
              ...channels,
              ...rights.split(' '),
            ),
        ),
      );
    onTestFinished(async () => {
      for (const server of cluster.servers) await cluster.client(server).acl('DELUSER', 'app');
    });
    await grant(`&${keyPrefix}*`);
    const redis = { cluster: cluster.nodes, redisOptions: { username: 'app', password: 'pass' } };
    const options = deployment({ redis, keyPrefix });
    const node = await open(options);
    const [token] = (await oneEach(node)) as [string];
    await node.sessions.update(token, { n: 1 });
    await node.sessions.get(token);
    expect(await node.sessions.get(token)).toMatchObject({ source: 'cache', data: { n: 1 } });
    await grant();
    const blind = await open(options, { live: false });
    await expect(blind.sessions.update(token, { n: 2 })).rejects.toMatchObject({
      code: 'SESSION_STORE_UNAVAILABLE',
    });
    expect(await blind.sessions.get(token)).toMatchObject({ source: 'store', data: { n: 1 } });
    expect(blind.subscriber.suspended).toHaveLength(SUITE_PARTITIONS);
  });

  it('close() closes every connection it has made', async () => {
    const before = await Promise.all(cluster.servers.map(connectionsOf));
    const node = await openNode(deployment({ waitForReplicas: 1 }));
    await node.sessions.create({});
    const during = await Promise.all(cluster.servers.map(connectionsOf));
    expect(sum(during)).toBeGreaterThan(sum(before) + 5);
    await node.close();
    await waitFor(async () => sum(await Promise.all(cluster.servers.map(connectionsOf))) <= sum(before));
  });

  it('no timer of its directory outlives it, and it opens no connections for a sharded subscriber of ioredis', async () => {
    const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
    const before = timers();
    const shared = { cluster: cluster.nodes, slotsRefreshInterval: 1, shardedSubscribers: true };
    for (let round = 0; round < 3; round++) {
      const node = await open(deployment({ redis: shared }));
      const lists = await Promise.all(
        cluster.servers.map(async (server) => String(await cluster.client(server).client('LIST'))),
      );
      expect(lists.join().match(/ioredis-cluster\(ssubscriber[^ ]*/g)).toBeNull();
      await node.close();
    }
    await waitFor(() => timers() <= before, { timeoutMs: 5_000 });
  });

  it('boots while no node answers, is 503, and serves when they do', async () => {
    const logger = new CapturingLogger();
    const proxy = await TcpProxy.start({ targetPort: cluster.servers[0]!.port });
    onTestFinished(() => proxy.close());
    proxy.refuse(true);
    const options = deployment({
      redis: { cluster: [{ host: '127.0.0.1', port: proxy.port }] },
      commandTimeout: '200ms',
    });
    const node = await open(options, { logger, live: false });
    expect(logger.lines.join('\n')).toMatch(/The Redis Cluster does not answer yet/);
    await expect(node.sessions.create({})).rejects.toMatchObject({ code: 'SESSION_STORE_UNAVAILABLE' });
    proxy.refuse(false);
    await waitFor(() => node.subscriber.live, { timeoutMs: 10_000 });
    expect((await node.sessions.create({})).valid).toBe(true);
  });

  describe('what does not fit', () => {
    const refusal = (options: SessionModuleOptions): Promise<unknown> =>
      openNode(options, { live: false }).then(
        (node) => node.close().then(() => 'it booted'),
        (error: unknown) => error,
      );

    it('the URL of one node: refused, naming the form for a Cluster', async () => {
      const error = await refusal(deployment({ redis: cluster.servers[0]!.url }));
      expect(error).toMatchObject({
        option: 'redis',
        message: expect.stringMatching(/one node of a Redis Cluster.*cluster: \[/),
      });
    });

    it('cluster: [...] that names a server alone: refused', async () => {
      const { hostname, port } = new URL(testRedisUrl());
      const error = await refusal(
        deployment({ redis: { cluster: [{ host: hostname, port: Number(port) }] } }),
      );
      expect(error).toMatchObject({ option: 'redis', message: expect.stringMatching(/not in cluster mode/) });
    });

    it('another partition count than the prefix was laid out with: refused, with the fix', async () => {
      const options = deployment();
      await open(options);
      const error = await refusal({ ...options, partitions: 8 });
      expect(error).toMatchObject({
        option: 'partitions',
        message: expect.stringMatching(/laid out with 16.*Set partitions: 16/),
      });
    });
  });
});

const sum = (numbers: readonly number[]): number => numbers.reduce((total, one) => total + one, 0);

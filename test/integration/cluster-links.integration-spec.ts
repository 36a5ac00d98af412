// Parts of the Cluster support by themselves, over real connections to the tests' own Redis.
import type { Redis } from 'ioredis';
import { expect, it, onTestFinished } from 'vitest';
import { SYSTEM_CLOCK } from '../../lib/core/clock.js';
import { Lease } from '../../lib/pubsub/lease.js';
import { Subscription } from '../../lib/pubsub/subscription.js';
import type { ClusterTopology } from '../../lib/store/cluster-topology.js';
import { openOwnClient } from '../../lib/store/redis-client.js';
import { RedisCluster } from '../../lib/store/redis-cluster.js';
import { RedisConnection } from '../../lib/store/redis-connection.js';
import { freePort } from '../support/free-port.js';
import { RedisServer } from '../support/redis-server.js';
import { testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { CapturingLogger, openNode } from './session-node.js';

it('a subscription that is closed no longer ends leases that another holds', async () => {
  const lost: (() => void)[] = [];
  const commands = new RedisConnection(
    () => openOwnClient(testRedisUrl(), 'cluster-links', 2_000),
    async () => null,
    1_000,
    () => undefined,
  );
  onTestFinished(() => commands.close());
  await commands.open();
  const lease = new Lease(10_000);
  const channels = [{ name: uniquePrefix(), probe: null, lease }];
  const listen = async (): Promise<Subscription> => {
    const subscription = new Subscription(
      {
        connect: () => openOwnClient(testRedisUrl(), 'cluster-links', 2_000),
        commands: {
          onLost: (listener) => lost.push(listener),
          serverRunId: () => commands.serverRunId(),
          serverRole: () => commands.serverRole(),
          exists: (key) => commands.exists(key),
          suspect: () => undefined,
        },
      },
      channels,
      { leaseMs: 10_000, heartbeatMs: 100 },
      SYSTEM_CLOCK,
      {
        onMessage: () => undefined,
        onOpened: () => undefined,
        onHeartbeat: () => undefined,
        onEnded: () => undefined,
      },
    );
    onTestFinished(() => subscription.close());
    await subscription.start();
    await waitFor(() => lease.isOpen);
    return subscription;
  };
  const former = await listen();
  former.close();
  expect(lease.isOpen).toBe(false);
  await listen();
  lost[0]!(); // the former master's connection, retired, has closed by now
  expect(lease.isOpen).toBe(true);
});

it('close() also closes the connection to a master that was found while it waited', async () => {
  const clients: Redis[] = [];
  const listeners: (() => void)[] = [];
  const topology = {
    owners: ['a'] as string[],
    lastProblem: '',
    start: async () => undefined,
    refresh: () => undefined,
    onChange: (listener: () => void) => void listeners.push(listener),
  };
  const links = new RedisCluster(
    topology as unknown as ClusterTopology,
    (_node, tell) =>
      new RedisConnection(
        async () => {
          const client = await openOwnClient(testRedisUrl(), 'cluster-links', 2_000);
          clients.push(client);
          return client;
        },
        async () => null,
        1_000,
        tell,
      ),
    () => 0,
    1_000,
    () => undefined,
  );
  await links.open();
  const underWay = links.read(0, 'wait', (client) => client.blpop(`${uniquePrefix()}nothing`, 0.5));
  const closing = links.close();
  topology.owners = ['b'];
  listeners[0]!();
  await underWay;
  await closing;
  expect(clients).toHaveLength(2);
  await waitFor(() => clients.every(({ status }) => status === 'end'));
});

it('commands that had little time left when they were sent do not open the breaker', async () => {
  const server = await RedisServer.start();
  onTestFinished(() => server.kill());
  const connection = new RedisConnection(
    () => openOwnClient(server.url, 'cluster-links', 2_000),
    async () => null,
    400,
    () => undefined,
  );
  onTestFinished(() => connection.close());
  await connection.open();
  await server.pause();
  const send = (timeoutMs?: number) =>
    expect(
      connection.send('ask', false, (client) => client.get('nothing'), 'request', timeoutMs),
    ).rejects.toMatchObject({ code: 'SESSION_STORE_UNAVAILABLE' });
  await Promise.all(Array.from({ length: 5 }, () => send(20)));
  expect(connection.breaker).toBe('closed');
  await Promise.all(Array.from({ length: 5 }, () => send()));
  expect(connection.breaker).toBe('open');
  server.resume();
});

it('a Cluster of one that does not know its own address: the warning at start says what is missing', async () => {
  const server = await RedisServer.start({
    args: ['--cluster-enabled', 'yes', '--cluster-port', String(await freePort())],
  });
  onTestFinished(() => server.kill());
  const client = await openOwnClient(server.url, 'cluster-links', 2_000);
  await client.connect();
  await client.cluster('ADDSLOTSRANGE', 0, 16_383);
  client.disconnect();
  const logger = new CapturingLogger();
  const redis = { cluster: [{ host: '127.0.0.1', port: server.port }] };
  const node = await openNode({ redis, commandTimeout: '300ms' }, { logger, live: false });
  onTestFinished(() => node.close());
  expect(
    logger.matching(/does not answer yet \(a node does not tell its own address: set cluster-announce-ip/),
  ).toHaveLength(1);
});

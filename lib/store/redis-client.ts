import type { Cluster, ClusterOptions, Redis, RedisOptions } from 'ioredis';
import type { RedisClusterOptions } from '../options/session-options.interface.js';

/** The forms in which options name a Redis. */
export type RedisSource = string | RedisOptions | Redis;

/** The forms in which they name a Cluster. */
export type ClusterSource = RedisClusterOptions | Cluster;

/**
 * Settings our own connections must have, whatever the user's client is set to. A queue would run a command after its
 * caller was told 503; a resend would run it twice; `maxRetriesPerRequest: 0` makes ioredis reject what is pending as
 * soon as the link breaks, instead of never.
 */
const OURS = {
  lazyConnect: true,
  enableOfflineQueue: false,
  autoResendUnfulfilledCommands: false,
  autoResubscribe: false,
  enableAutoPipelining: false,
  enableReadyCheck: true,
  maxRetriesPerRequest: 0,
  keyPrefix: '',
  // Replies as our scripts expect them, and one deadline per command, which is ours.
  stringNumbers: false,
  replyMapping: 'legacy',
  commandTimeout: undefined,
  // How long a socket may linger after disconnect(). ioredis keeps the process alive for it (2 s by default).
  disconnectTimeout: 100,
  // Soon after an outage, and not all processes at the same moment.
  retryStrategy: (attempt: number) =>
    Math.min(25 * 2 ** Math.min(attempt, 5), 400) * (0.75 + Math.random() / 4),
} satisfies RedisOptions;

/**
 * With Sentinel: always the master; a new one is moved to as soon as the sentinels say so, also while the old one hangs;
 * and sentinels are asked again quickly, none for longer than the socket may be silent.
 */
const oursForSentinel = (socketTimeoutMs: number) =>
  ({
    role: 'master',
    failoverDetector: true,
    sentinelCommandTimeout: socketTimeoutMs,
    sentinelRetryStrategy: OURS.retryStrategy,
    sentinelReconnectStrategy: OURS.retryStrategy,
  }) satisfies RedisOptions;

/**
 * A connection of our own to where `source` points. ioredis is loaded here and only here, so that an app without
 * `redis` never loads it. Not connected yet.
 *
 * @param socketTimeoutMs a socket with unanswered commands and no data for this long is given up
 */
export async function openOwnClient(
  source: RedisSource,
  name: string,
  socketTimeoutMs: number,
): Promise<Redis> {
  const ours: RedisOptions = {
    ...ownSettings(name, socketTimeoutMs),
    ...(usesSentinel(source) ? oursForSentinel(socketTimeoutMs) : {}),
  };
  if (typeof source === 'object' && 'duplicate' in source) return (source as Redis).duplicate(ours);
  const { Redis } = await import('ioredis');
  return typeof source === 'string'
    ? new Redis(withoutQuery(source, ours), ours)
    : new Redis({ ...source, ...ours });
}

function ownSettings(name: string, socketTimeoutMs: number): RedisOptions {
  return {
    ...OURS,
    connectionName: name,
    socketTimeout: socketTimeoutMs,
    connectTimeout: Math.max(socketTimeoutMs, 1_000), // a short lease is no reason to give up a slow handshake
  };
}

/** What ioredis knows of a Cluster: which node owns which slot, and how to connect to it. */
export interface ClusterDirectory {
  readonly cluster: Cluster;
  /** How often the table of slots is to be asked for when nothing happens; 0 = never. Milliseconds. */
  readonly refreshEveryMs: number;
  /** The slot of a key, 0 to 16383. */
  slotOf(key: string): number;
  /** A connection of our own to a node, not yet connected. `host:port`, as the Cluster and the option `natMap` name it. */
  connectTo(node: string, name: string, socketTimeoutMs: number): Redis;
}

/**
 * A cluster client of our own that never runs a command: it finds nodes, by startup nodes, DNS, `natMap` and TLS as the
 * user has set them, and keeps the table of slots. Not connected yet.
 *
 * @param timeoutMs a node that does not tell its slots for this long is passed over
 */
export async function openOwnCluster(
  source: ClusterSource,
  name: string,
  timeoutMs: number,
): Promise<ClusterDirectory> {
  const { Cluster, Command, Redis } = await import('ioredis');
  const theirs: ClusterOptions = 'isCluster' in source ? source.options : source;
  const ours: ClusterOptions = {
    lazyConnect: true,
    enableOfflineQueue: false,
    enableReadyCheck: false, // it would open a connection that nothing else uses
    scaleReads: 'master',
    keyPrefix: '',
    slotsRefreshTimeout: timeoutMs,
    slotsRefreshInterval: 0, // see ClusterTopology
    shardedSubscribers: false, // more connections that nothing uses
    clusterRetryStrategy: OURS.retryStrategy,
    redisOptions: {
      ...theirs.redisOptions,
      keyPrefix: '',
      connectionName: `${name}:directory`,
      connectTimeout: Math.max(timeoutMs, 1_000),
      commandTimeout: undefined,
    },
  };
  const cluster =
    'isCluster' in source
      ? source.duplicate([], ours)
      : new Cluster([...source.cluster], { ...withoutNodes(source), ...ours });
  return {
    cluster,
    refreshEveryMs: theirs.slotsRefreshInterval ?? 5_000,
    slotOf: (key) => Number(new Command('exists', [key]).getSlot()),
    connectTo: (node, connectionName, socketTimeoutMs) => {
      const settings = { ...ownSettings(connectionName, socketTimeoutMs), readOnly: false };
      const known = cluster.nodes().find(({ options: { host, port } }: Redis) => `${host}:${port}` === node);
      if (known !== undefined) return known.duplicate(settings);
      const colon = node.lastIndexOf(':');
      const mapped = natMapped(theirs, node) ?? {
        host: node.slice(0, colon),
        port: Number(node.slice(colon + 1)),
      };
      return new Redis({ ...theirs.redisOptions, ...mapped, ...settings });
    },
  };
}

function withoutNodes({ cluster: _nodes, ...options }: RedisClusterOptions): ClusterOptions {
  return options;
}

function natMapped({ natMap }: ClusterOptions, node: string): { host: string; port: number } | null {
  return (typeof natMap === 'function' ? natMap(node) : natMap?.[node]) ?? null;
}

function usesSentinel(source: RedisSource): boolean {
  if (typeof source === 'string') return false;
  const options = 'duplicate' in source ? (source as Redis).options : source;
  return Array.isArray(options.sentinels) && options.sentinels.length > 0;
}

/** ioredis lets the query of a URL win over options; ours must hold, so their names are taken out of it. */
function withoutQuery(url: string, ours: object): string {
  const parsed = new URL(url);
  for (const name of Object.keys(ours)) parsed.searchParams.delete(name);
  return parsed.href;
}

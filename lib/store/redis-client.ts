import type { Redis, RedisOptions } from 'ioredis';

/** The forms in which options name a Redis. */
export type RedisSource = string | RedisOptions | Redis;

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
    ...OURS,
    connectionName: name,
    socketTimeout: socketTimeoutMs,
    connectTimeout: Math.max(socketTimeoutMs, 1_000), // a short lease is no reason to give up a slow handshake
    ...(usesSentinel(source) ? oursForSentinel(socketTimeoutMs) : {}),
  };
  if (typeof source === 'object' && 'duplicate' in source) return (source as Redis).duplicate(ours);
  const { Redis } = await import('ioredis');
  return typeof source === 'string'
    ? new Redis(withoutQuery(source, ours), ours)
    : new Redis({ ...source, ...ours });
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

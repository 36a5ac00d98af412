import { Redis } from 'ioredis';
import { onTestFinished } from 'vitest';
import { deleteByPrefix, testRedisUrl, uniquePrefix } from '../../support/redis-url.js';
import { waitFor } from '../../support/wait-for.js';
import { RedisSubscriber } from '../../../lib/index.js';
import type { TestApp } from './test-app.js';

/** Options that put an app on the run's Redis, under keys of its own that go when the test ends. */
export function onRedis(): { redis: string; keyPrefix: string } {
  const redis = testRedisUrl();
  const keyPrefix = uniquePrefix();
  onTestFinished(async () => {
    const client = new Redis(redis);
    await deleteByPrefix(client, keyPrefix);
    client.disconnect();
  });
  return { redis, keyPrefix };
}

/** A client as a user would make it; disconnected when the test ends. */
export function openClient(): Redis {
  const client = new Redis(testRedisUrl());
  onTestFinished(() => client.disconnect());
  return client;
}

/** Names of the connections that the instance holds open, as Redis sees them. */
export async function connectionsOf(client: Redis, instanceId: string): Promise<string[]> {
  const list = (await client.call('CLIENT', 'LIST')) as string;
  return [...list.matchAll(/ name=(\S+)/g)]
    .map(([, name]) => name!)
    .filter((name) => name.endsWith(`:${instanceId}`))
    .sort();
}

/** Until then the near cache stores nothing. */
export async function untilLive({ app }: TestApp): Promise<void> {
  await waitFor(() => app.get(RedisSubscriber, { strict: false }).state === 'live', {
    message: 'subscriber',
  });
}

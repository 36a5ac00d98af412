// vitest globalSetup: one Redis for the whole run. REDIS_URL names an existing one; else a private one is started.
import { connect } from 'node:net';
import type { TestProject } from 'vitest/node';
import { RedisServer } from './redis-server.js';

declare module 'vitest' {
  export interface ProvidedContext {
    /** Where the run's Redis listens, as a redis:// URL. */
    redisUrl: string;
  }
}

/**
 * Provides `redisUrl` and gives back the teardown, which stops the server only if it was started here. Rejects when
 * REDIS_URL names something nobody listens at (waits 5000 ms at most), or when no server can be started.
 */
export default async function setup(project: Pick<TestProject, 'provide'>): Promise<() => Promise<void>> {
  const given = process.env.REDIS_URL;
  if (given !== undefined && given !== '') {
    await reach(given);
    project.provide('redisUrl', given);
    return async () => undefined;
  }
  const server = await RedisServer.start();
  project.provide('redisUrl', server.url);
  return () => server.stop();
}

function reach(url: string): Promise<void> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port || 6379), hostname.replace(/^\[|\]$/g, ''), () => {
      socket.destroy();
      resolve();
    });
    const fail = (why: string): void => {
      socket.destroy();
      reject(new Error(`REDIS_URL points at ${hostname}:${port || 6379}, which cannot be reached: ${why}`));
    };
    socket.setTimeout(5000, () => fail('no answer within 5000 ms'));
    socket.on('error', (error) => fail(error.message));
  });
}

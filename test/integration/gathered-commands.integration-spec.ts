import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { RedisServer } from '../support/redis-server.js';
import { openNode, type SessionNode } from './session-node.js';

const REQUESTS = 64;

describe('commands of requests that arrive together', () => {
  let server: RedisServer;
  let node: SessionNode;
  let admin: Redis;

  beforeAll(async () => {
    server = await RedisServer.start();
    node = await openNode({ redis: server.url, sweepInterval: '1h' });
    admin = new Redis(server.url);
  });
  afterAll(async () => {
    admin?.disconnect();
    await node?.close();
    await server?.stop();
  });

  /** How often the server has read from a socket. */
  async function readsOfServer(): Promise<number> {
    return Number(/total_reads_processed:(\d+)/.exec(await admin.info('stats'))![1]);
  }

  it('reach Redis in a few writes to the socket, and not in one each', async () => {
    const { token } = await node.sessions.create({ name: 'Ada' });
    const before = await readsOfServer();
    // Each in a task of its own, as the requests of one turn of the event loop are.
    const sessions = await Promise.all(
      Array.from({ length: REQUESTS }, async () => {
        await new Promise((resolve) => setImmediate(resolve));
        return node.sessions.get(token, { fresh: true });
      }),
    );
    const reads = (await readsOfServer()) - before;
    expect(sessions).not.toContain(null);
    expect(reads).toBeLessThan(REQUESTS / 4); // two of them, that of INFO, and heartbeats meanwhile
  });
});

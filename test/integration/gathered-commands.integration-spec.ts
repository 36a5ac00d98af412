import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
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

  it('a process that is held up while they are gathered waits for their answers: none is a 503, and the breaker stays closed', async () => {
    const slow = await openNode({
      redis: server.url,
      keyPrefix: 'held-up:',
      commandTimeout: '300ms',
      cache: false,
    });
    onTestFinished(() => slow.close());
    const { token } = await slow.sessions.create({ name: 'Ada' });
    const reads: Promise<unknown>[] = [];
    await new Promise<void>((resolve) => {
      // Each a task of its own; the last one computes for longer than a command may take.
      for (let read = 0; read < 5; read++) setImmediate(() => reads.push(slow.sessions.get(token)));
      setImmediate(() => {
        const end = performance.now() + 500;
        while (performance.now() < end);
        resolve();
      });
    });
    for (const session of await Promise.all(reads)) expect(session).toMatchObject({ data: { name: 'Ada' } });
    expect(await slow.sessions.get(token)).not.toBeNull();
  });

  it("fake timers of an app's tests hold nothing back", async () => {
    const { token } = await node.sessions.create({ name: 'Ada' });
    const tasks = (count: number) =>
      Promise.all(
        Array.from({ length: count }, async () => {
          await new Promise((resolve) => realImmediate(resolve));
          return node.sessions.get(token, { fresh: true });
        }),
      );
    const realImmediate = setImmediate;
    vi.useFakeTimers({ toFake: ['setImmediate'] });
    onTestFinished(() => void vi.useRealTimers());
    expect(await tasks(3)).not.toContain(null);
    vi.useRealTimers();
    expect(await tasks(3)).not.toContain(null);
  });
});

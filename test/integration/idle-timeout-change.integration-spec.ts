// A write that changes the idle timeout (`SessionChange.idleTimeout`), over each kind of store.
import session from 'express-session';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MemorySessionStore, SessionModule, SESSION_STORE, type SessionStore } from '../../lib/index.js';
import { fromExpressStore } from '../../lib/express-store/index.js';
import { Test } from '@nestjs/testing';
import { RedisServer } from '../support/redis-server.js';
import { mustCreate, mustGet } from '../../lib/testing/kit.js';
import { waitFor } from '../support/wait-for.js';

describe.each(['memory', 'record', 'Redis'])('set() with an idle timeout on a %s store', (kind) => {
  let store: SessionStore;
  let close = async (): Promise<void> => undefined;
  beforeAll(async () => {
    if (kind === 'memory') store = new MemorySessionStore();
    else if (kind === 'record') store = fromExpressStore(new session.MemoryStore());
    else {
      const server = await RedisServer.start();
      const app = await Test.createTestingModule({
        imports: [SessionModule.forRoot({ redis: server.url })],
      }).compile();
      await app.init();
      store = app.get<SessionStore>(SESSION_STORE);
      close = async () => {
        await app.close();
        await server.stop();
      };
    }
  });
  afterAll(() => close());

  it.each([
    ['longer', 60_000, 7_200_000],
    ['shorter', 7_200_000, 60_000],
    ['endless', 60_000, 0],
    ['no longer endless', 0, 60_000],
  ])('makes its life %s from now on', async (_title, before, after) => {
    const { record } = await mustCreate(store, { idleTimeout: before, absoluteTimeout: 0 });
    const result = await store.set({ base: record, data: 'x', keepExpiry: false, idleTimeout: after });
    expect(result.status).toBe('written');
    const now = await mustGet(store, record.id);
    expect(now).toMatchObject({ idleTimeout: after, absoluteDeadline: 0, data: 'x' });
    expect('record' in result && result.record).toEqual(now);
    await store.destroy(record.id);
  });

  it('counts a session that was given a short life no longer when that is over', async () => {
    const { record } = await mustCreate(store, { idleTimeout: 7_200_000, absoluteTimeout: 0 });
    await store.set({ base: record, data: 'x', keepExpiry: false, idleTimeout: 30 });
    await waitFor(async () => (await store.get(record.id)) === null);
    expect(await store.length()).toBe(0);
  });
});

it('the record in Redis expires by the new deadline', async () => {
  const server = await RedisServer.start();
  const app = await Test.createTestingModule({
    imports: [SessionModule.forRoot({ redis: server.url })],
  }).compile();
  await app.init();
  const redis = new Redis(server.url);
  try {
    const store = app.get<SessionStore>(SESSION_STORE);
    const { record } = await mustCreate(store, { idleTimeout: 60_000, absoluteTimeout: 0 });
    await store.set({ base: record, data: 'x', keepExpiry: false, idleTimeout: 7_200_000 });
    const [key] = await redis.keys(`*:s:${record.id}`);
    expect(await redis.pttl(key!)).toBeGreaterThan(7_100_000);
  } finally {
    redis.disconnect();
    await app.close();
    await server.stop();
  }
});

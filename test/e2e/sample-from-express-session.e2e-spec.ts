// sample/05-from-express-session as people run it: the same browsers over its three stages, on one Redis.
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { RedisServer } from '../support/redis-server.js';
import { ask, CookieJar } from './support/http-client.js';
import { compileSample, SampleProcess } from './support/sample-process.js';

const NAME = '05-from-express-session';

describe('sample 05-from-express-session', () => {
  let server: RedisServer;
  let redis: Redis;
  beforeAll(async () => {
    compileSample(NAME);
    server = await RedisServer.start();
    redis = new Redis(server.url);
  }, 120_000);
  afterAll(async () => {
    redis.disconnect();
    await SampleProcess.stopAll();
    await server.stop();
  });
  const at = (stage: string) => SampleProcess.start(NAME, { REDIS_URL: server.url, STAGE: stage });
  const views = async (jar: CookieJar) => ((await jar.ask('/count')).body as { views: number }).views;

  it('a cookie of express-session on connect-redis works before, during and after the move', async () => {
    const before = await at('before');
    const [ann, bob, cid] = [new CookieJar(before.url), new CookieJar(before.url), new CookieJar(before.url)];
    for (const jar of [ann, bob, cid]) expect([await views(jar), await views(jar)]).toEqual([1, 2]);
    const cookie = ann.value('connect.sid');
    await before.stop();
    expect(await redis.keys('sess:*')).toHaveLength(3);

    const during = await at('during');
    const moved = ann.at(during.url);
    // Parallel requests of one browser share one move.
    await Promise.all([views(moved), moved.ask('/nothing-here'), moved.ask('/nothing-here')]);
    expect(await views(moved)).toBe(4);
    expect(await redis.keys('sess:*')).toHaveLength(2);
    expect((await cid.at(during.url).ask('/sign-out', { method: 'POST' })).status).toBe(204);
    expect(await redis.keys('sess:*')).toHaveLength(1);
    expect(await views(cid.at(during.url))).toBe(1);
    const dan = new CookieJar(during.url);
    expect(await views(dan)).toBe(1);
    await during.stop();

    const after = await at('after');
    const kept = moved.at(after.url);
    expect([await views(kept), await views(kept)]).toEqual([5, 6]);
    expect(kept.value('connect.sid')).toBe(cookie);
    expect(await views(dan.at(after.url))).toBe(2);
    const eve = new CookieJar(after.url);
    expect([await views(eve), await views(eve)]).toEqual([1, 2]);
    // Bob came too late for "during": express-session would have had him sign in again, too.
    expect(await views(bob.at(after.url))).toBe(1);

    const forged = cookie!.replace(/.$/, (last) => (last === 'A' ? 'B' : 'A'));
    expect((await ask(`${after.url}/count`, { headers: { cookie: `connect.sid=${forged}` } })).body).toEqual({
      views: 1,
    });
    expect((await kept.ask('/sign-out', { method: 'POST' })).status).toBe(204);
    expect((await ask(`${after.url}/count`, { headers: { cookie: `connect.sid=${cookie}` } })).body).toEqual({
      views: 1,
    });
    await after.stop();
  }, 120_000);

  it('says what it needs, and ends, without REDIS_URL', async () => {
    expect(await SampleProcess.fail(NAME, {})).toContain('Set REDIS_URL');
  }, 60_000);
});

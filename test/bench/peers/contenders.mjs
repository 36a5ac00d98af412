// Who is measured: the package, other packages that keep sessions in Redis, and raw ioredis. Each does what its own
// documentation says for the operation, in the way that is fastest for it; where it has no such operation, it has none here.
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { promisify } from 'node:util';
import { bentostore, BentoCache } from 'bentocache';
import { memoryDriver } from 'bentocache/drivers/memory';
import { redisBusDriver, redisDriver } from 'bentocache/drivers/redis';
import { RedisStore } from 'connect-redis';
import expressSession from 'express-session';
import { Redis as Redis5 } from 'ioredis';
import { createClient } from 'redis';
import { SessionManager } from 'redisess';
import { check, IDLE_SECONDS, makeData, newPrefix, openApp } from '../kit.mjs';
import { deleteByPrefix } from '../redis.mjs';
import { openFloor, openRaw, userOf } from './floor.mjs';

const require = createRequire(import.meta.url);
const SessionToken = require('session-token');
// session-token logs every message of its own that comes back; what that costs is not what is measured here.
require('node-slogger').init({ level: 'warn' });
const { default: RedisSessions } = require('redis-sessions');

/**
 * Somebody who keeps sessions. What `create` resolves to is what the others are asked with.
 *
 * @typedef {object} Contender
 * @property {(index: number) => Promise<unknown>} create a session of one of 500 users, 220 bytes of data
 * @property {(session: any) => Promise<number | undefined>} get from Redis: the data's `x`; undefined when there is none
 * @property {(session: any, x: number) => Promise<unknown>} [save] changes `x`
 * @property {(session: any) => Promise<unknown>} [touch] prolongs it
 * @property {(session: any) => Promise<unknown>} destroy
 * @property {(session: any) => Promise<unknown>} [open] what `save` and `touch` are asked with, where it is not what `create` resolves to
 * @property {(session: any) => Promise<number>} [saved] what Redis has as `x` after `save`, where `get` does not tell
 * @property {() => Promise<unknown>} clear
 * @property {() => Promise<unknown>} close
 */

/**
 * @typedef {object} Env
 * @property {string} url
 * @property {import('ioredis').Redis} raw
 * @property {boolean} cached with its own cache in the process and whatever keeps that right; else without
 * @property {string} [prefix] of another one's that it shares the sessions of
 */

/** @type {Record<string, (env: Env) => Promise<Contender>>} */
export const CONTENDERS = {
  'raw ioredis': openRaw,
  floor: openFloor,
  'nestjs-sessionkit': openOurs,
  'session-token': openSessionToken,
  redisess: openRedisess,
  'redis-sessions': openRedisSessions,
  'connect-redis': openConnectRedis,
  bentocache: openBentocache,
};

/** What the rows' names stand for. */
export const NOTES = [
  'raw ioredis: SET EX, GET, PEXPIRE, DEL of a string, JSON both ways: no index, no check, no message to others.',
  'floor: what our scripts ask of Redis for the same effect, in the shortest script, JSON both ways, and no library.',
  "session-token's, redisess's and our client: ioredis 6; bentocache's: ioredis 5; connect-redis' and redis-sessions': node-redis.",
  'connect-redis: its store, as express-session and @fastify/session call it; those themselves are in the HTTP part.',
  'redisess: data as JSON in an additional field; save is its set() of the one field; touch is its get(), destroy its kill().',
  'redis-sessions: flat data, because it takes no other; its get() also touches.',
];

const clearing = ({ raw }, prefix) => ({ clear: () => deleteByPrefix(raw, prefix) });

async function openOurs({ url, cached, prefix }) {
  const options = { sweepInterval: '1h', touchInterval: 0, ...(!cached && { cache: false }) };
  const app = await openApp(url, { ...options, ...(prefix && { keyPrefix: prefix }) });
  const { service, store } = app;
  const data = makeData();
  return {
    prefix: app.prefix,
    create: async (index) => (await service.create(data, { userId: userOf(index) })).token,
    get: async (token) => (await service.get(token))?.data.x,
    cachedSync: (token) => service.getCached(token)?.data.x,
    open: (token) => service.get(token),
    save(session, x) {
      session.data.x = x;
      return session.save();
    },
    touch: (session) => session.touch(),
    destroy: (token) => service.destroy(token),
    clear: () => store.clear(),
    close: app.close,
    service,
  };
}

async function openSessionToken(env) {
  const { raw, cached } = env;
  const prefix = env.prefix ?? newPrefix();
  const client = raw.duplicate();
  const subscriber = cached ? raw.duplicate() : undefined;
  const peer = new SessionToken({
    expireTime: IDLE_SECONDS,
    redisKeyPrefix: prefix,
    redis: client,
    subRedis: subscriber,
    maxSize: cached ? 0 : -1,
    idleCheckInterval: 3_600_000, // by default it looks at copies every millisecond, at everybody's cost
  });
  await peer._subscribePromise;
  const [generate, get, update, refresh, remove] = ['generate', 'get', 'update', 'refresh', 'delete'].map(
    (method) => promisify(peer[method].bind(peer)),
  );
  return {
    ...clearing(env, prefix),
    prefix,
    create: () => generate(makeData()),
    get: async (token) => (await get(token))?.x,
    save: (token, x) => update(token, makeData(x)),
    touch: refresh,
    destroy: remove,
    async close() {
      client.disconnect();
      subscriber?.disconnect();
    },
  };
}

async function openRedisess(env) {
  const prefix = env.prefix ?? newPrefix().slice(0, -1);
  const client = env.raw.duplicate();
  await client.ping(); // it adds a listener for each call before the link is up
  const manager = new SessionManager(client, {
    namespace: prefix,
    ttl: IDLE_SECONDS,
    additionalFields: ['data'],
    wipeInterval: 3_600_000,
  });
  return {
    ...clearing(env, prefix),
    prefix,
    create: async (index) =>
      (await manager.create(userOf(index), { data: JSON.stringify(makeData()) })).sessionId,
    async get(id) {
      const session = await manager.get(id, true);
      return session && JSON.parse(session.data).x;
    },
    open: (id) => manager.get(id, true),
    save: (session, x) => session.set('x', x),
    saved: (session) => session.get('x'),
    touch: (session) => manager.get(session.sessionId),
    destroy: (id) => manager.kill(id),
    async close() {
      manager.quit();
      client.disconnect();
    },
  };
}

async function openRedisSessions(env) {
  const prefix = env.prefix ?? newPrefix().slice(0, -1);
  const app = 'bench';
  const options = { url: env.url };
  // Its cache is flushed by messages only with `cachetime`, in seconds.
  const peer = new RedisSessions({
    namespace: prefix,
    options,
    wipe: 0,
    ...(env.cached && { cachetime: 60 }),
  });
  for (const client of [peer.redis, peer.redissub]) client?.on('error', () => {}); // it leaves them to end the process
  await peer.ping();
  const ip = '203.0.113.7';
  return {
    ...clearing(env, prefix),
    prefix,
    create: async (index) =>
      (await peer.create({ app, ip, id: userOf(index), ttl: IDLE_SECONDS, d: makeFlatData() })).token,
    get: async (token) => (await peer.get({ app, token }))?.d.x,
    save: (token, x) => peer.set({ app, token, d: { x } }),
    // Its own copy goes when Redis has sent its message back, a moment after set() has resolved.
    saved: async (token) => (await peer.get({ app, token, _nocache: true })).d.x,
    touch: (token) => peer.get({ app, token, _nocache: true }),
    destroy: (token) => peer.kill({ app, token }),
    async close() {
      await peer.quit();
      await peer.redissub?.quit();
    },
  };
}

/** As `makeData`, without nested values. */
function makeFlatData() {
  const { roles, cart, ...data } = { ...makeData(), pad: '' };
  data.pad = 'p'.repeat(220 - JSON.stringify(data).length);
  check(roles !== undefined && cart !== undefined, 'what is left out was there');
  return data;
}

async function openConnectRedis(env) {
  const prefix = env.prefix ?? newPrefix();
  const client = await createClient({ url: env.url }).connect();
  const store = new RedisStore({ client, prefix, ttl: IDLE_SECONDS });
  const { Cookie } = expressSession;
  const sessionOf = (x) => ({ cookie: new Cookie({ originalMaxAge: IDLE_SECONDS * 1_000 }), ...makeData(x) });
  return {
    ...clearing(env, prefix),
    prefix,
    async create() {
      const id = randomUUID();
      await store.set(id, sessionOf());
      return id;
    },
    get: async (id) => (await store.get(id))?.x,
    save: (id, x) => store.set(id, sessionOf(x)),
    touch: (id) => store.touch(id, { cookie: new Cookie({ originalMaxAge: IDLE_SECONDS * 1_000 }) }),
    destroy: (id) => store.destroy(id),
    close: () => client.close(),
  };
}

async function openBentocache(env) {
  const prefix = env.prefix ?? newPrefix().slice(0, -1);
  const client = new Redis5(env.url);
  const redis = redisDriver({ connection: client });
  const layers = bentostore();
  const store = env.cached
    ? layers
        .useL1Layer(memoryDriver({ maxItems: 10_000 }))
        .useL2Layer(redis)
        .useBus(redisBusDriver({ connection: connectionOf(env.url) }))
    : layers.useL2Layer(redis);
  const bento = new BentoCache({
    default: 'sessions',
    prefix,
    ttl: IDLE_SECONDS * 1_000,
    stores: { sessions: store },
  });
  return {
    ...clearing(env, prefix),
    prefix,
    async create() {
      const key = randomUUID();
      await bento.set({ key, value: makeData() });
      return key;
    },
    get: async (key) => (await bento.get({ key }))?.x,
    getOrSet: async (key) =>
      (await bento.getOrSet({ key, factory: () => check(false, 'the session is in Redis') })).x,
    save: (key, x) => bento.set({ key, value: makeData(x) }),
    destroy: (key) => bento.delete({ key }),
    async close() {
      await bento.disconnect();
      client.disconnect();
    },
  };
}

function connectionOf(url) {
  const { hostname: host, port } = new URL(url);
  return { host, port: Number(port) };
}

// What the families share: apps with the module, the 220-byte data, raw keys, checks.
import 'reflect-metadata';
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { NestFactory } from '@nestjs/core';
import { ExecutionContextHost } from '@nestjs/core/helpers/execution-context-host.js';
import {
  CacheService,
  RedisSubscriber,
  SESSION_STORE,
  SessionGuard,
  SessionModule,
  SessionRegistry,
  SessionService,
} from 'nestjs-sessionkit';
import { deleteByPrefix } from './redis.mjs';

export const IDLE_SECONDS = 1_800;
/** Sessions or keys that reading and changing families go round; more than any concurrency, so none meets itself. */
export const POOL = 1_000;

/** Session data whose JSON has exactly `bytes`, with a counter of constant width for `save`. */
export function makeData(x = 1_000_000, bytes = 220) {
  const data = {
    x,
    name: 'Ada Lovelace',
    email: 'ada@example.org',
    roles: ['author', 'reviewer'],
    cart: { items: [101, 205, 309], currency: 'EUR' },
    locale: 'en-GB',
    pad: '',
  };
  data.pad = 'p'.repeat(bytes - JSON.stringify(data).length);
  return data;
}

export const JSON_220 = JSON.stringify(makeData());
check(Buffer.byteLength(JSON_220) === 220, 'the data must have 220 bytes');

/** A key prefix that nobody else uses. */
export const newPrefix = () => `bench-${randomBytes(6).toString('hex')}:`;

/** A Nest app with the module on `url`, under a key prefix of its own unless one is given, ready to be measured. */
export async function openApp(url, options = {}) {
  const prefix = options.keyPrefix ?? newPrefix();
  class BenchModule {}
  const module = {
    module: BenchModule,
    imports: [
      SessionModule.forRoot({ redis: url, keyPrefix: prefix, idleTimeout: IDLE_SECONDS * 1_000, ...options }),
    ],
  };
  const app = await NestFactory.createApplicationContext(module, {
    logger: ['error', 'warn'],
    abortOnError: false,
  });
  const subscriber = app.get(RedisSubscriber);
  for (let waited = 0; options.cache !== false && subscriber.state !== 'live'; waited += 10) {
    check(waited < 5_000, `the near cache does not become live: the subscriber is "${subscriber.state}"`);
    await delay(10);
  }
  return {
    prefix,
    service: app.get(SessionService),
    registry: app.get(SessionRegistry),
    store: app.get(SESSION_STORE),
    cache: app.get(CacheService),
    subscriber,
    guard: app.get(SessionGuard),
    close: () => app.close(),
  };
}

/** The same for a family: closed and cleared away when the family has been measured. */
export async function openFor({ url, raw, defer }, options) {
  const app = await openApp(url, options);
  defer(async () => {
    await app.close();
    await deleteByPrefix(raw, app.prefix);
  });
  return app;
}

/** Tokens of `count` new sessions. `userOf` gives the user of the n-th; null is nobody. */
export async function createSessions(
  service,
  count,
  userOf = () => null,
  dataOf = () => makeData(),
  metadata,
) {
  const tokens = [];
  for (let start = 0; start < count; start += 200) {
    const batch = Array.from({ length: Math.min(200, count - start) }, (_, index) =>
      service.create(dataOf(), { userId: userOf(start + index), ...(metadata && { metadata }) }),
    );
    for (const session of await Promise.all(batch)) tokens.push(session.token);
  }
  return tokens;
}

class Controller {}
const handler = () => undefined;

/** What Nest hands to a guard. */
export const contextOf = (request) => new ExecutionContextHost([request, undefined], Controller, handler);

/** A token of the form the package makes, for which there is no session. */
export function forgeToken() {
  const bytes = randomBytes(33);
  bytes[0] &= 15; // one of the default's 16 partitions
  return bytes.toString('base64url');
}

/** Sets `count` raw keys to `value` with an expiry, and resolves to their names. */
export async function setRawKeys(client, prefix, count, value) {
  const keys = rawKeys(prefix, count);
  await inBatches(keys, (batch) => {
    const pipeline = client.pipeline();
    for (const key of batch) pipeline.set(key, value, 'EX', IDLE_SECONDS);
    return pipeline.exec();
  });
  return keys;
}

let series = 0;

/** Names no other call returns, about as long as those of records. */
export function rawKeys(prefix, count) {
  const name = `${prefix}raw:${String(series++).padStart(6, '0')}:`;
  return Array.from({ length: count }, (_, index) => name + String(index).padStart(16, '0'));
}

/** How many of the keys exist. */
export async function countExisting(client, keys) {
  let found = 0;
  await inBatches(keys, async (batch) => {
    found += await client.exists(...batch);
  });
  return found;
}

export async function unlinkAll(client, keys) {
  await inBatches(keys, (batch) => client.unlink(...batch));
}

async function inBatches(items, work) {
  for (let start = 0; start < items.length; start += 500) await work(items.slice(start, start + 500));
}

/** A benchmark that did not do its work must not print a figure. */
export function check(condition, message) {
  if (!condition) throw new Error(`The benchmark is wrong: ${message}`);
}

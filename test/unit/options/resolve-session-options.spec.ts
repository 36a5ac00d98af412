import { Redis } from 'ioredis';
import { describe, expect, it } from 'vitest';
import { SessionOptionsError } from '../../../lib/errors/caller.errors.js';
import { resolveSessionOptions } from '../../../lib/options/resolve-session-options.js';
import type { SessionModuleOptions } from '../../../lib/options/session-options.interface.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';

/** Options as they come from JavaScript, environment variables and configuration files. */
const resolve = (input: unknown) => resolveSessionOptions(input as SessionModuleOptions);

function refusal(input: unknown): SessionOptionsError {
  try {
    resolve(input);
  } catch (error) {
    expect(error).toBeInstanceOf(SessionOptionsError);
    return error as SessionOptionsError;
  }
  throw new Error('the options were accepted');
}

const MAX_PREFIX = 'p'.repeat(65);

/** Wrong options, the option the error must name, how it must show the value, and the fix it must end with. */
const WRONG: [title: string, input: unknown, option: string, value: string | RegExp, fix: RegExp][] = [
  ['redis: a number', { redis: 6379 }, 'redis', 'number', /Write e\.g\. redis: 'redis:\/\//],
  ['redis: an array', { redis: [] }, 'redis', 'an array', /Write e\.g\. redis: 'redis:\/\//],
  ['redis: a host name', { redis: 'localhost:6379' }, 'redis', 'another string', /redis:\/\/localhost:6379/],
  ['redis: an empty string', { redis: '' }, 'redis', 'another string', /redis:\/\/localhost:6379/],
  ['redis: http', { redis: 'http://localhost' }, 'redis', 'another string', /redis:\/\/localhost:6379/],
  [
    'redis: sentinels without a name',
    { redis: { sentinels: [{}] } },
    'redis.name',
    'got undefined',
    /Write e\.g\. 'mymaster'/,
  ],
  [
    'redis: sentinels with an empty name',
    { redis: { sentinels: [{}], name: '' } },
    'redis.name',
    'got ""',
    /Write e\.g\. 'mymaster'/,
  ],
  [
    'redis: sentinels with a number for a name',
    { redis: { sentinels: [{}], name: 1 } },
    'redis.name',
    'got 1',
    /Write e\.g\. 'mymaster'/,
  ],
  [
    'redis: no sentinel',
    { redis: { sentinels: [], name: 'm' } },
    'redis.sentinels',
    'got an array',
    /Write \[\{ host: '10/,
  ],
  [
    'redis: a host name for sentinels',
    { redis: { sentinels: 'sentinel:26379', name: 'm' } },
    'redis.sentinels',
    '"sentinel:26379"',
    /Write \[\{ host: '10/,
  ],
  [
    'redis: a replica',
    { redis: { sentinels: [{}], name: 'm', role: 'slave' } },
    'redis.role',
    'got "slave"',
    /drop the option/,
  ],
  [
    'redis: a role of another kind',
    { redis: { sentinels: [{}], name: 'm', role: null } },
    'redis.role',
    'got null',
    /drop the option/,
  ],
  [
    'subscriber: a replica',
    { redis: {}, subscriber: { sentinels: [{}], name: 'm', role: 'slave' } },
    'subscriber.role',
    'got "slave"',
    /drop the option/,
  ],
  [
    'redis: a cluster without nodes',
    { redis: { cluster: [] } },
    'redis.cluster',
    '0 nodes',
    /Write \[\{ host/,
  ],
  [
    'redis: a cluster as a string',
    { redis: { cluster: 'redis://a' } },
    'redis.cluster',
    'string',
    /Write \[\{ host/,
  ],
  [
    'redis: a cluster, one node without a port',
    { redis: { cluster: [{ host: 'a', port: 1 }, { host: 'b' }] } },
    'redis.cluster',
    '2 nodes',
    /Write \[\{ host/,
  ],
  [
    'subscriber: one server, redis a cluster',
    { redis: { cluster: [{ host: 'a', port: 1 }] }, subscriber: 'redis://localhost' },
    'subscriber',
    'Cluster',
    /Drop subscriber/,
  ],
  ['subscriber: true', { redis: {}, subscriber: true }, 'subscriber', 'boolean', /Write e\.g\./],
  ['subscriber without redis', { subscriber: {} }, 'subscriber', 'needs "redis"', /Set redis too, or drop/],
  [
    'store: a class instance of another kind',
    { store: {} },
    'store',
    'an object without open, close, create',
    /Extend the class/,
  ],
  ['store: a string', { store: 'redis' }, 'store', '"redis"', /Extend the class SessionStore/],
  ['store and redis', { store: new MemorySessionStore(), redis: {} }, 'store', '"redis"', /Set one of them/],
  ['keyPrefix: braces', { keyPrefix: 'a{b}:' }, 'keyPrefix', '"a{b}:"', /Write e\.g\. "sk:"/],
  ['keyPrefix: a space', { keyPrefix: 'a b' }, 'keyPrefix', '"a b"', /Write e\.g\. "sk:"/],
  ['keyPrefix: empty', { keyPrefix: '' }, 'keyPrefix', '""', /Write e\.g\. "sk:"/],
  ['keyPrefix: 65 characters', { keyPrefix: MAX_PREFIX }, 'keyPrefix', 'pppp…"', /Write e\.g\. "sk:"/],
  ['keyPrefix: a line end', { keyPrefix: 'a\n' }, 'keyPrefix', '"a\\n"', /Write e\.g\. "sk:"/],
  ['idleTimeout: seconds', { idleTimeout: 60 }, 'idleTimeout', 'is 60', /Write '60s' or '60ms'/],
  ['idleTimeout: a word', { idleTimeout: 'soon' }, 'idleTimeout', '"soon"', /'30m'/],
  ['idleTimeout: digits only', { idleTimeout: '1800' }, 'idleTimeout', '"1800"', /'30m'/],
  ['idleTimeout: negative', { idleTimeout: -5_000 }, 'idleTimeout', '-5000', /between 0ms and 1000d/],
  ['idleTimeout: NaN', { idleTimeout: Number.NaN }, 'idleTimeout', 'NaN', /'30m'/],
  [
    'idleTimeout: 1001 days',
    { idleTimeout: '1001d' },
    'idleTimeout',
    '"1001d"',
    /Choose a value in that range/,
  ],
  ['absoluteTimeout: null', { absoluteTimeout: null }, 'absoluteTimeout', 'null', /'14d'/],
  ['absoluteTimeout: a fraction', { absoluteTimeout: 1_000.5 }, 'absoluteTimeout', '1000.5', /'14d'/],
  ['absoluteTimeout: Infinity', { absoluteTimeout: Infinity }, 'absoluteTimeout', 'Infinity', /'14d'/],
  [
    'idle over absolute',
    { idleTimeout: '2h', absoluteTimeout: '1h' },
    'idleTimeout',
    '7200000',
    /Shorten it/,
  ],
  ['idle default over absolute', { absoluteTimeout: '10m' }, 'idleTimeout', '1800000', /Shorten it, or set/],
  ['touchInterval: true', { touchInterval: true }, 'touchInterval', 'true', /Write milliseconds/],
  [
    'touchInterval over half of idle',
    { touchInterval: '16m' },
    'touchInterval',
    '960000',
    /Write 900000 or less/,
  ],
  ['partitions: 0', { partitions: 0 }, 'partitions', 'got 0', /from 1 to 256.*Write e\.g\. 16/],
  ['partitions: 257', { partitions: 257 }, 'partitions', 'got 257', /from 1 to 256/],
  ['partitions: a string', { partitions: '16' }, 'partitions', 'got "16"', /Write e\.g\. 16/],
  ['index: true', { index: true }, 'index', 'got true', /Write \{ users/],
  ['index: null', { index: null }, 'index', 'got null', /Write \{ users/],
  [
    'index.users: a string',
    { redis: 'redis://h', index: { users: 'false' } },
    'index.users',
    '"false"',
    /true or/,
  ],
  [
    'index.activity: 0',
    { redis: 'redis://h', index: { activity: 0 } },
    'index.activity',
    'got 0',
    /true or false/,
  ],
  [
    'index: false without redis',
    { index: false },
    'index',
    'is false',
    /only Redis.*Set "redis" too, or drop it/,
  ],
  ['index.users without redis', { index: { users: false } }, 'index.users', 'is false', /Set "redis" too/],
  [
    'index.activity without redis',
    { index: { activity: false } },
    'index.activity',
    'is false',
    /Set "redis" too/,
  ],
  [
    'index with a store',
    { store: new MemorySessionStore(), index: { activity: false } },
    'index.activity',
    'is false',
    /other stores keep what they keep/,
  ],
  [
    'maxSessionsPerUser without index.users',
    { redis: 'redis://h', index: { users: false }, maxSessionsPerUser: 3 },
    'maxSessionsPerUser',
    '"index.users" is false',
    /Drop one of both/,
  ],
  [
    'maxSessionsPerUser with index: false',
    { redis: 'redis://h', index: false, maxSessionsPerUser: () => 3 },
    'maxSessionsPerUser',
    '"index" is false',
    /Drop one of both/,
  ],
  [
    'sweepInterval with index: false',
    { redis: 'redis://h', index: false, sweepInterval: '5s' },
    'sweepInterval',
    'index: false',
    /has no effect.*Drop one of both/,
  ],
  ['instanceId: a space', { instanceId: 'node 1' }, 'instanceId', '"node 1"', /Write e\.g\. "/],
  ['instanceId: 65 characters', { instanceId: 'i'.repeat(65) }, 'instanceId', 'iii…"', /1 to 64 characters/],
  [
    'allowGivenTokens: "false"',
    { allowGivenTokens: 'false' },
    'allowGivenTokens',
    '"false"',
    /compare them with 'true'/,
  ],
  ['maxDataBytes: 1', { maxDataBytes: 1 }, 'maxDataBytes', 'got 1', /Write e\.g\. 262144/],
  ['maxDataBytes: a size in words', { maxDataBytes: '1mb' }, 'maxDataBytes', '"1mb"', /Write e\.g\. 262144/],
  ['commandTimeout: 500', { commandTimeout: 500 }, 'commandTimeout', 'is 500', /'500s' or '500ms'/],
  ['commandTimeout: 0', { commandTimeout: 0 }, 'commandTimeout', 'got 0', /between 10ms and 1m/],
  ['commandTimeout: 2 minutes', { commandTimeout: '2m' }, 'commandTimeout', '"2m"', /between 10ms and 1m/],
  [
    'onStoreUnavailable: a word',
    { onStoreUnavailable: 'open' },
    'onStoreUnavailable',
    '"open"',
    /Write e\.g\. 'deny'/,
  ],
  ['onStoreUnavailable: true', { onStoreUnavailable: true }, 'onStoreUnavailable', 'got true', /'anonymous'/],
  [
    "onStoreUnavailable: 'stale' without a cache",
    { onStoreUnavailable: 'stale', cache: false },
    'onStoreUnavailable',
    "is 'stale'",
    /Drop cache: false/,
  ],
  ['staleFor: 30', { staleFor: 30 }, 'staleFor', 'is 30', /'30s' or '30ms'/],
  ['staleFor: an hour', { staleFor: '1h' }, 'staleFor', '"1h"', /between 1s and 10m/],
  ['dataClass: a name', { dataClass: 'Cart' }, 'dataClass', 'got "Cart"', /Write class Data/],
  ['codec: a name', { codec: 'msgpackr' }, 'codec', 'got "msgpackr" without encode', /Write \{ encode/],
  ['codec: null', { codec: null }, 'codec', 'got null without encode, decode', /or drop it/],
  ['codec: half of one', { codec: { encode: JSON.stringify } }, 'codec', 'without decode', /Write \{ encode/],
  ['dataClass: null', { dataClass: null }, 'dataClass', 'got null', /Write class Data/],
  ['dataClass: an instance', { dataClass: new Date() }, 'dataClass', 'got an object', /Write class Data/],
  [
    'dataClass: an arrow function',
    { dataClass: () => ({}) },
    'dataClass',
    'a function that cannot be constructed',
    /Write class Data/,
  ],
  [
    'waitForReplicas: negative',
    { redis: {}, waitForReplicas: -1 },
    'waitForReplicas',
    'got -1',
    /from 0 to 100/,
  ],
  [
    'waitForReplicas: 101',
    { redis: {}, waitForReplicas: 101 },
    'waitForReplicas',
    'got 101',
    /from 0 to 100/,
  ],
  [
    'waitForReplicas: 1.5',
    { redis: {}, waitForReplicas: 1.5 },
    'waitForReplicas',
    'got 1.5',
    /from 0 to 100/,
  ],
  [
    'waitForReplicas: true',
    { redis: {}, waitForReplicas: true },
    'waitForReplicas',
    'got true',
    /from 0 to 100/,
  ],
  [
    'waitForReplicas without redis',
    { waitForReplicas: 1 },
    'waitForReplicas',
    'is 1',
    /Set "redis" too, or drop it/,
  ],
  ['coherence: a number', { coherence: 2_000 }, 'coherence', 'got 2000', /Write \{ leaseMs: … \}/],
  [
    'coherence.leaseMs: 99',
    { coherence: { leaseMs: 99 } },
    'coherence.leaseMs',
    'got 99',
    /from 100 to 60000.*Write e\.g\. 2000/,
  ],
  [
    'coherence.leaseMs: over a minute',
    { coherence: { leaseMs: 60_001 } },
    'coherence.leaseMs',
    'got 60001',
    /from 100 to 60000/,
  ],
  [
    'coherence.leaseMs: words',
    { coherence: { leaseMs: '2s' } },
    'coherence.leaseMs',
    'got "2s"',
    /Write e\.g\. 2000/,
  ],
  [
    'coherence.leaseMs: null',
    { coherence: { leaseMs: null } },
    'coherence.leaseMs',
    'got null',
    /Write e\.g\. 2000/,
  ],
  [
    'coherence.heartbeatMs: 9',
    { coherence: { heartbeatMs: 9 } },
    'coherence.heartbeatMs',
    'got 9',
    /from 10 to 1000.*Write e\.g\. 500/,
  ],
  [
    'coherence.heartbeatMs over half of leaseMs',
    { coherence: { leaseMs: 400, heartbeatMs: 201 } },
    'coherence.heartbeatMs',
    'got 201',
    /from 10 to 200.*Write e\.g\. 100/,
  ],
  [
    'coherence.heartbeatMs: NaN',
    { coherence: { heartbeatMs: Number.NaN } },
    'coherence.heartbeatMs',
    'got NaN',
    /Write e\.g\. 500/,
  ],
  ['cache: true', { cache: true }, 'cache', 'got true', /Write \{ maxEntries: … \}/],
  ['cache: null', { cache: null }, 'cache', 'got null', /Write \{ maxEntries: … \}/],
  ['cache.maxEntries: -1', { cache: { maxEntries: -1 } }, 'cache.maxEntries', 'got -1', /Write e\.g\. 10000/],
  ['cache.ttlRatio: 0', { cache: { ttlRatio: 0 } }, 'cache.ttlRatio', 'got 0', /Write e\.g\. 0\.5/],
  ['cache.ttlRatio: 1.1', { cache: { ttlRatio: 1.1 } }, 'cache.ttlRatio', 'got 1.1', /Write e\.g\. 0\.5/],
  [
    'cache.ttlRatio: NaN',
    { cache: { ttlRatio: Number.NaN } },
    'cache.ttlRatio',
    'got NaN',
    /Write e\.g\. 0\.5/,
  ],
  ['cache.maxBytes: -1', { cache: { maxBytes: -1 } }, 'cache.maxBytes', 'got -1', /from 0 to/],
  ['cache.maxBytes: "1MB"', { cache: { maxBytes: '1MB' } }, 'cache.maxBytes', '"1MB"', /whole number/],
  [
    'cache.maxBytes with files',
    { cache: { maxBytes: 1_024, directory: '/tmp/copies' } },
    'cache.maxBytes',
    'got 1024',
    /Set cache\.maxEntries/,
  ],
  ['cache.maxAge: 0', { cache: { maxAge: 0 } }, 'cache.maxAge', 'got 0', /between 1ms and 1d/],
  ['cache.maxAge: 60', { cache: { maxAge: 60 } }, 'cache.maxAge', 'is 60', /'60s' or '60ms'/],
  ['cache.clearCron: a number', { cache: { clearCron: 5 } }, 'cache.clearCron', 'got 5', /Write e\.g\. '0 4/],
  ['cache.clearCron: blank', { cache: { clearCron: ' ' } }, 'cache.clearCron', '" "', /Write e\.g\. '0 4/],
  [
    'cache.maxEntries: 2^24 + 1',
    { cache: { maxEntries: 2 ** 24 + 1 } },
    'cache.maxEntries',
    '16777217',
    /to 16777216/,
  ],
  ['cache.maxAge: over a day', { cache: { maxAge: '25h' } }, 'cache.maxAge', '"25h"', /between 1ms and 1d/],
  [
    'cache.idleCheckInterval: 30',
    { cache: { idleCheckInterval: 30 } },
    'cache.idleCheckInterval',
    'is 30',
    /'30s' or '30ms'/,
  ],
  [
    'cache.idleCheckInterval: negative',
    { cache: { idleCheckInterval: -1_000 } },
    'cache.idleCheckInterval',
    '-1000',
    /Choose a value in that range/,
  ],
  [
    'cache.idleCheckInterval: longer than a timer holds',
    { cache: { idleCheckInterval: '25d' } },
    'cache.idleCheckInterval',
    '"25d"',
    /Choose a value in that range/,
  ],
  [
    'cache.idleCheckPerCount: 0',
    { cache: { idleCheckPerCount: 0 } },
    'cache.idleCheckPerCount',
    'got 0',
    /from 1 to 1000000.*Write e\.g\. 30/,
  ],
  [
    'cache.idleCheckPerCount: a string',
    { cache: { idleCheckPerCount: '30' } },
    'cache.idleCheckPerCount',
    'got "30"',
    /Write e\.g\. 30/,
  ],
  [
    'cache.reportInterval: words',
    { cache: { reportInterval: 'hourly' } },
    'cache.reportInterval',
    '"hourly"',
    /'30m'/,
  ],
  [
    'cache.reportInterval: longer than a timer holds',
    { cache: { reportInterval: '25d' } },
    'cache.reportInterval',
    '"25d"',
    /Choose a value in that range/,
  ],
  ['cache.type: redis', { cache: { type: 'redis' } }, 'cache.type', '"redis"', /Write e\.g\. 'memory'/],
  ['cache.type: null', { cache: { type: null } }, 'cache.type', 'got null', /Write e\.g\. 'memory'/],
  [
    'cache.type: file without a directory',
    { cache: { type: 'file' } },
    'cache.directory',
    'must be set',
    /Write e\.g\. '\/var/,
  ],
  [
    'cache.directory: a number',
    { cache: { directory: 5 } },
    'cache.directory',
    'got 5',
    /Write e\.g\. '\/var/,
  ],
  [
    'cache.directory: empty',
    { cache: { directory: '' } },
    'cache.directory',
    'got ""',
    /Write e\.g\. '\/var/,
  ],
  [
    'cache.directory: a NUL',
    { cache: { directory: '/tmp/\0' } },
    'cache.directory',
    '"/tmp/\\u0000"',
    /Write e\.g\. '\/var/,
  ],
  [
    'cache.directory for copies in memory',
    { cache: { type: 'memory', directory: '/tmp' } },
    'cache.directory',
    'no effect',
    /set cache\.type 'file', or drop it|Set cache\.directory and cache\.type 'file', or drop it/,
  ],
  [
    'cache.encoder: a name',
    { cache: { directory: '/tmp', encoder: 'gzip', decoder: JSON.parse } },
    'cache.encoder',
    'got "gzip"',
    /Write e\.g\. JSON\.stringify/,
  ],
  [
    'cache.decoder: an object',
    { cache: { directory: '/tmp', encoder: JSON.stringify, decoder: {} } },
    'cache.decoder',
    'got an object',
    /Write e\.g\. JSON\.parse/,
  ],
  [
    'cache.encoder without a decoder',
    { cache: { directory: '/tmp', encoder: JSON.stringify } },
    'cache.decoder',
    'is missing',
    /Set both or none/,
  ],
  [
    'cache.decoder without an encoder',
    { cache: { directory: '/tmp', decoder: JSON.parse } },
    'cache.encoder',
    'is missing',
    /Set both or none/,
  ],
  [
    'cache.encoder for copies in memory',
    { cache: { encoder: JSON.stringify, decoder: JSON.parse } },
    'cache.encoder',
    'no effect',
    /or drop it/,
  ],
  [
    'transport: a word',
    { transport: 'query' },
    'transport',
    '"query"',
    /Write e\.g\. \['cookie', 'bearer'\]/,
  ],
  ['transport: nothing', { transport: [] }, 'transport', 'an empty array', /Write e\.g\. \['cookie'\]/],
  ['transport: an object', { transport: [{}] }, 'transport', 'an object', /Write e\.g\./],
  [
    'transport.header: a space',
    { transport: { header: 'x y' } },
    'transport.header',
    '"x y"',
    /Write e\.g\. "x-auth-token"/,
  ],
  [
    'transport.header: undefined',
    { transport: { header: undefined } },
    'transport.header',
    'got undefined',
    /Write e\.g\. "x-auth-token"/,
  ],
  ['cookie: a string', { cookie: 'sid' }, 'cookie', '"sid"', /Write \{ name: … \}/],
  ['cookie.name: a semicolon', { cookie: { name: 'a;b' } }, 'cookie.name', '"a;b"', /Write e\.g\. "sid"/],
  ['rotateEvery: seconds', { rotateEvery: 900 }, 'rotateEvery', '900', /milliseconds\?/],
  ['rotateEvery: too short', { rotateEvery: '10s' }, 'rotateEvery', '"10s"', /between 1m/],
  ['rotateGrace: too long', { rotateEvery: '1h', rotateGrace: '2m' }, 'rotateGrace', '"2m"', /and 1m/],
  ['rotateGrace without rotateEvery', { rotateGrace: '5s' }, 'rotateGrace', 'needs rotateEvery', /'15m'/],
  [
    'rotateGrace: more than half',
    { rotateEvery: '1m', rotateGrace: '40s' },
    'rotateGrace',
    '40000 ms',
    /Write 30000 or less/,
  ],
  ['maxSessionsPerUser: none', { maxSessionsPerUser: 0 }, 'maxSessionsPerUser', 'got 0', /Drop it/],
  ['onLimit: a word', { maxSessionsPerUser: 1, onLimit: 'evict' }, 'onLimit', '"evict"', /'evict-oldest'/],
  ['onLimit without a limit', { onLimit: 'reject' }, 'onLimit', 'needs maxSessionsPerUser', /drop onLimit/],
  ['sweepInterval: 5', { sweepInterval: 5 }, 'sweepInterval', 'is 5', /milliseconds\?/],
  ['captureMetadata: a word', { captureMetadata: 'ip' }, 'captureMetadata', '"ip"', /true or false/],
  [
    'additionalFields: a name',
    { additionalFields: 'groupId' },
    'additionalFields',
    '"groupId"',
    /\['groupId'\]/,
  ],
  ['additionalFields: one there is', { additionalFields: ['ip'] }, 'additionalFields', '"ip"', /'groupId'/],
  ['expressView: a word', { expressView: 'yes' }, 'expressView', '"yes"', /true or false/],
  [
    'userIdFrom: a name',
    { userIdFrom: 'user', expressView: true },
    'userIdFrom',
    '"user"',
    /Write \(data\) =>/,
  ],
  [
    'userIdFrom without expressView',
    { userIdFrom: () => null },
    'userIdFrom',
    'needs expressView: true',
    /SessionService\.login/,
  ],
  ['csrf: a word', { csrf: 'lax' }, 'csrf', '"lax"', /Write \{ strict: … \}/],
  [
    'events: a function',
    { events: () => undefined },
    'events',
    /got \(\)|got function|got/,
    /Write \{ message: … \}/,
  ],
  [
    'events.message: a string',
    { events: { message: 'log' } },
    'events.message',
    '"log"',
    /Write \(payload\) =>/,
  ],
];

/** The options there are, of a group or of the module, as the error for an unknown one lists them. */
const knownIn = (group?: string) =>
  /Known here: (.*)\.$/
    .exec(refusal(group === undefined ? { '?': 1 } : { [group]: { '?': 1 } }).message)![1]!
    .split(', ');

describe('resolveSessionOptions: wrong values', () => {
  it.each(WRONG)('%s is refused, naming option, value and fix', (_, input, option, value, fix) => {
    const error = refusal(input);
    expect(error.option).toBe(option);
    expect(error.code).toBe('SESSION_OPTIONS');
    expect(error.message).toContain(`"${option}"`);
    expect(error.message).toMatch(
      typeof value === 'string' ? new RegExp(value.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')) : value,
    );
    expect(error.message).toMatch(fix);
    // Nothing was left unfilled in the sentence, and it suggests nothing empty.
    expect(error.message).not.toMatch(/\[object|Write e\.g\. ""/);
  });

  it('has at least one wrong value for every option there is', () => {
    const known = knownIn();
    expect(known.length).toBeGreaterThanOrEqual(16);
    const named = WRONG.map(([, , option]) => option);
    const covered = new Set(named.map((option) => option.split('.')[0]));
    expect(known.filter((option) => !covered.has(option))).toEqual([]);
    for (const group of ['cache', 'coherence'])
      expect(knownIn(group).filter((name) => !named.includes(`${group}.${name}`))).toEqual([]);
  });

  // Their wrong values are in cookie-options.spec.ts; no option of theirs may be one that is not checked at all.
  it.each([
    ['cookie', 9],
    ['csrf', 2],
  ])('each option of %s refuses a value of another kind, naming itself', (group, count) => {
    const names = knownIn(group);
    expect(names).toHaveLength(count);
    for (const name of names)
      expect(refusal({ [group]: { [name]: { of: 'another kind' } } }).option).toBe(`${group}.${name}`);
  });

  it.each(['redis', 'subscriber'])('a wrong %s is never shown: it may hold a password', (option) => {
    for (const value of [
      'redis//user:hunter2@host:6379',
      'http://user:hunter2@host',
      ['redis://:hunter2@host'],
      { sentinels: [{}], password: 'hunter2' },
      { sentinels: [], name: 'm', password: 'hunter2' },
      { sentinels: [{}], name: 'm', role: 'slave', sentinelPassword: 'hunter2' },
      { cluster: ['http://:hunter2@a'] },
      { cluster: [], password: 'hunter2' },
    ]) {
      expect(refusal({ redis: {}, [option]: value }).message).not.toContain('hunter2');
    }
  });

  it.each([null, 'redis://localhost', 5])('%j in the place of the options is refused', (input) => {
    expect(refusal(input).message).toMatch(/must be an object.*Return the options from the factory/);
  });

  it('a long wrong value is cut', () => {
    expect(refusal({ keyPrefix: ' '.repeat(10_000) }).message.length).toBeLessThan(400);
  });
});

describe('resolveSessionOptions: unknown keys', () => {
  it.each([
    ['idleTimout', { idleTimout: 1 }, 'idleTimeout'],
    ['keyprefix', { keyprefix: 'x' }, 'keyPrefix'],
    ['instanceID', { instanceID: 'x' }, 'instanceId'],
    ['subscribers', { subscribers: {} }, 'subscriber'],
    ['cache.maxEntires', { cache: { maxEntires: 5 } }, 'cache.maxEntries'],
    ['cache.ttlratio', { cache: { ttlratio: 0.5 } }, 'cache.ttlRatio'],
    ['cache.directroy', { cache: { directroy: '/tmp' } }, 'cache.directory'],
    ['cache.idleCheckCount', { cache: { idleCheckCount: 5 } }, 'cache.idleCheckPerCount'],
    ['coherence.lease', { coherence: { lease: 5 } }, 'coherence.leaseMs'],
    ['index.user', { redis: 'redis://h', index: { user: false } }, 'index.users'],
    ['dataclass', { dataclass: class {} }, 'dataClass'],
    ['waitForReplica', { waitForReplica: 1 }, 'waitForReplicas'],
    ['cookie.nmae', { cookie: { nmae: 'sid' } }, 'cookie.name'],
    ['events.cacheWrites', { events: { cacheWrites: () => undefined } }, 'events.cacheWrite'],
    ['transport.prefix', { transport: { header: 'x-a', prefix: 'y' } }, 'transport.header'],
  ])('%s is refused and its nearest neighbour named', (option, input, neighbour) => {
    const error = refusal(input);
    expect(error.option).toBe(option);
    expect(error.message).toContain(`Did you mean "${neighbour}"?`);
  });
});

describe('resolveSessionOptions: what is right', () => {
  it.each([
    [undefined, { users: true, activity: true }],
    [{}, { users: true, activity: true }],
    [
      { users: undefined, activity: true },
      { users: true, activity: true },
    ],
    [{ users: false }, { users: false, activity: true }],
    [{ activity: false }, { users: true, activity: false }],
    [
      { users: false, activity: false },
      { users: false, activity: false },
    ],
    [false, false],
  ] as const)('index %o with redis is %o, frozen', (index, wanted) => {
    const resolved = resolveSessionOptions({ redis: 'redis://h', index: index as never });
    expect(resolved.index).toEqual(wanted);
    expect(Object.isFrozen(resolved.index)).toBe(true);
  });

  it('index as it is by default is no mistake without redis', () => {
    expect(resolveSessionOptions({ index: { users: true } }).index).toEqual({ users: true, activity: true });
  });

  it('no options are the documented defaults, frozen', () => {
    const resolved = resolveSessionOptions();
    expect(resolved).toEqual({
      redis: undefined,
      subscriber: undefined,
      store: undefined,
      keyPrefix: 'sk:',
      idleTimeout: 1_800_000,
      absoluteTimeout: 1_209_600_000,
      touchInterval: 60_000,
      rotateEveryMs: 0,
      rotateGraceMs: 0,
      partitions: 16,
      index: { users: true, activity: true },
      instanceId: expect.stringMatching(/^[A-Za-z0-9_-]{12}$/),
      allowGivenTokens: false,
      maxDataBytes: 262_144,
      commandTimeoutMs: 1_000,
      onStoreUnavailable: 'deny',
      staleForMs: undefined,
      dataClass: undefined,
      codec: undefined,
      waitForReplicas: 0,
      captureMetadata: true,
      additionalFields: [],
      maxSessionsPerUser: 0,
      onLimit: 'evict-oldest',
      sweepIntervalMs: 5_000,
      cache: {
        maxEntries: 10_000,
        maxBytes: 0,
        ttlRatio: 1,
        maxAgeMs: 60_000,
        clearCron: undefined,
        idleCheckIntervalMs: 0,
        idleCheckPerCount: 30,
        reportIntervalMs: 0,
        files: null,
      },
      coherence: { leaseMs: 2_000, heartbeatMs: 500 },
      transport: ['cookie', 'bearer'],
      cookie: {
        name: 'sid',
        secure: false,
        sameSite: 'lax',
        httpOnly: true,
        path: '/',
        domain: undefined,
        maxAgeMs: undefined,
        partitioned: false,
        secrets: [],
        decided: true,
      },
      csrf: { strict: false, allowedOrigins: [] },
      expressView: false,
      userIdFrom: undefined,
      events: {},
    });
    const { cache, coherence, transport, cookie, csrf, events } = resolved;
    for (const part of [resolved, cache, coherence, transport, cookie, cookie.secrets, csrf, events])
      expect(Object.isFrozen(part)).toBe(true);
  });

  it('an option that is undefined, as an unset environment variable is, has its default', () => {
    const { instanceId: _, ...defaults } = resolveSessionOptions();
    const unset = Object.fromEntries(knownIn().map((name) => [name, undefined]));
    expect(resolve(unset)).toMatchObject(defaults);
    expect(
      resolve({
        cache: {
          maxEntries: undefined,
          maxBytes: undefined,
          ttlRatio: undefined,
          maxAge: undefined,
          clearCron: undefined,
          idleCheckInterval: undefined,
          idleCheckPerCount: undefined,
          reportInterval: undefined,
          type: undefined,
          directory: undefined,
          encoder: undefined,
          decoder: undefined,
        },
        coherence: { leaseMs: undefined, heartbeatMs: undefined },
        cookie: Object.fromEntries(knownIn('cookie').map((name) => [name, undefined])),
        csrf: { strict: undefined, allowedOrigins: undefined },
        events: { message: undefined },
      }),
    ).toMatchObject({ ...defaults, events: {} });
  });

  it.each([
    ['90s', 90_000],
    ['1.5h', 5_400_000],
    ['2 days', 172_800_000],
    ['1000ms', 1_000],
    [1_000, 1_000],
    [0, 0],
    ['0', 0],
  ])('idleTimeout %j is %d milliseconds', (idleTimeout, expected) => {
    expect(resolve({ idleTimeout, touchInterval: 0 }).idleTimeout).toBe(expected);
  });

  it('touchInterval follows a short idleTimeout as its half', () => {
    expect(resolve({ idleTimeout: '30s' }).touchInterval).toBe(15_000);
    expect(resolve({ idleTimeout: 0 }).touchInterval).toBe(60_000);
    expect(resolve({ idleTimeout: '30s', touchInterval: '15s' }).touchInterval).toBe(15_000);
  });

  it('immortal sessions need both timeouts 0', () => {
    expect(resolve({ idleTimeout: 0, absoluteTimeout: 0 })).toMatchObject({
      idleTimeout: 0,
      absoluteTimeout: 0,
    });
  });

  it('every process has an instanceId of its own', () => {
    expect(resolve({}).instanceId).not.toBe(resolve({}).instanceId);
  });

  it('cache: false is no cache, cache.maxEntries: 0 no limit', () => {
    expect(resolve({ cache: false }).cache).toBe(false);
    expect(resolve({ cache: { maxEntries: 0 } }).cache).toMatchObject({ maxEntries: 0 });
  });

  it('a client, options or URLs pass as redis, the same object', () => {
    const client = new Redis({ lazyConnect: true });
    expect(resolve({ redis: client, subscriber: client }).redis).toBe(client);
    const options = { host: 'localhost' };
    expect(resolve({ redis: options }).redis).toBe(options);
    expect(resolve({ redis: 'rediss://user:pw@host:6380/2' }).redis).toBe('rediss://user:pw@host:6380/2');
  });

  it('sentinels with the name of their master pass, as options and as a client, without a role or as master', () => {
    const sentinels = [{ host: 'localhost', port: 1 }];
    for (const settings of [
      { sentinels, name: 'm' },
      { sentinels, name: 'm', role: 'master' as const },
    ]) {
      expect(resolve({ redis: settings, subscriber: settings }).redis).toBe(settings);
      const client = new Redis({ ...settings, lazyConnect: true });
      expect(resolve({ redis: client, subscriber: client }).subscriber).toBe(client);
    }
    // ioredis itself fills in `sentinels: null` for a client that has none.
    expect(resolve({ redis: { sentinels: null, host: 'localhost' } }).redis).toBeDefined();
  });

  it('a client that goes through sentinels is checked like options that do', () => {
    const sentinels = [{ host: 'localhost', port: 1 }];
    const replica = new Redis({ lazyConnect: true, sentinels, name: 'm', role: 'slave' });
    expect(refusal({ redis: replica }).option).toBe('redis.role');
    expect(refusal({ redis: {}, subscriber: replica }).option).toBe('subscriber.role');
    const nameless = new Redis({ lazyConnect: true, sentinels, name: 'm' });
    nameless.options.name = ''; // ioredis takes none without a name, but other versions may
    expect(refusal({ redis: nameless }).option).toBe('redis.name');
  });

  it('heartbeatMs follows a short leaseMs as its quarter, and takes 10 ms to half of it', () => {
    expect(resolve({ coherence: { leaseMs: 100 } }).coherence).toEqual({ leaseMs: 100, heartbeatMs: 25 });
    expect(resolve({ coherence: { leaseMs: 60_000 } }).coherence).toEqual({
      leaseMs: 60_000,
      heartbeatMs: 500,
    });
    for (const heartbeatMs of [10, 50])
      expect(resolve({ coherence: { leaseMs: 100, heartbeatMs } }).coherence.heartbeatMs).toBe(heartbeatMs);
    expect(resolve({ coherence: { heartbeatMs: 1_000 } }).coherence.heartbeatMs).toBe(1_000);
  });

  it('waitForReplicas takes 0 to 100 with redis, and 0 without', () => {
    expect(resolve({ redis: {}, waitForReplicas: 100 }).waitForReplicas).toBe(100);
    expect(resolve({ waitForReplicas: 0 }).waitForReplicas).toBe(0);
  });

  it('dataClass takes a class and an old-style constructor, the same function', () => {
    class Data {}
    function Old() {}
    expect(resolve({ dataClass: Data }).dataClass).toBe(Data);
    expect(resolve({ dataClass: Old }).dataClass).toBe(Old);
  });

  it('cache.directory makes it a file cache, its path absolute; encoder and decoder have defaults', () => {
    const files = (cache: object) => {
      const resolved = resolve({ cache }).cache;
      return resolved === false ? null : resolved.files;
    };
    const standard = { directory: '/tmp/x', encoder: JSON.stringify, decoder: JSON.parse };
    expect(files({ directory: '/tmp/x' })).toEqual(standard);
    expect(files({ type: 'file', directory: '/tmp/y/../x' })).toEqual(standard);
    expect(files({ directory: 'cache' })).toMatchObject({ directory: `${process.cwd()}/cache` });
    expect(Object.isFrozen(files({ directory: '/tmp/x' }))).toBe(true);
    const encoder = () => '';
    const decoder = () => ({});
    expect(files({ directory: '/tmp/x', encoder, decoder })).toEqual({
      directory: '/tmp/x',
      encoder,
      decoder,
    });
    expect(files({ type: 'memory' })).toBeNull();
    expect(files({})).toBeNull();
  });

  it('the intervals of the cache take durations, and 0 for never', () => {
    const cache = { idleCheckInterval: '30s', idleCheckPerCount: 1_000_000, reportInterval: '1h' };
    expect(resolve({ cache }).cache).toMatchObject({
      idleCheckIntervalMs: 30_000,
      idleCheckPerCount: 1_000_000,
      reportIntervalMs: 3_600_000,
    });
    expect(resolve({ cache: { idleCheckInterval: 0, reportInterval: '0' } }).cache).toMatchObject({
      idleCheckIntervalMs: 0,
      reportIntervalMs: 0,
    });
  });

  it('transport takes one or several, header names in lower case', () => {
    expect(resolve({ transport: 'bearer' }).transport).toEqual(['bearer']);
    expect(resolve({ transport: [{ header: 'X-Auth-Token' }, 'cookie'] }).transport).toEqual([
      { header: 'x-auth-token' },
      'cookie',
    ]);
  });

  it('the input is neither changed nor kept: later changes of it have no effect', () => {
    const input = { cache: { maxEntries: 5 }, transport: ['cookie'] as 'cookie'[] };
    const resolved = resolveSessionOptions(input);
    input.cache.maxEntries = 6;
    input.transport.pop();
    expect(resolved.cache).toMatchObject({ maxEntries: 5 });
    expect(resolved.transport).toEqual(['cookie']);
  });
});

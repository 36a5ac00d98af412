import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { SessionGoneError } from '../../lib/index.js';
import { RedisMonitor } from '../support/redis-monitor.js';
import { RedisServer } from '../support/redis-server.js';
import { openNode, type SessionNode } from './session-node.js';

const PARTITIONS = 16;
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';

/** Of heartbeats, and of a connection made anew on a busy machine; not of any token's making. */
const isUpkeep = (line: string): boolean => /\] "(role|ping|info|subscribe|hello|client|config)"/i.test(line);

describe('bad tokens', () => {
  let server: RedisServer;
  let monitor: RedisMonitor;
  let node: SessionNode;
  let realId: string;
  let realToken: string;

  beforeAll(async () => {
    server = await RedisServer.start();
    node = await openNode({ redis: server.url, partitions: PARTITIONS, sweepInterval: '1h' });
    const session = await node.sessions.create({ name: 'Ada' }, { userId: 'ada' });
    await node.registry.count({ activeWithin: '1h' }); // writes now when it was active, and not a second later
    ({ id: realId, token: realToken } = session);
    monitor = await RedisMonitor.open(server.url);
  });
  afterAll(async () => {
    monitor?.close();
    await node?.close();
    await server?.stop();
  });
  beforeEach(async () => {
    await monitor.sync();
    monitor.clear();
  });

  function newToken(partition: number): string {
    return Buffer.concat([Buffer.of(partition), randomBytes(32)]).toString('base64url');
  }

  /** Refused by every method, as unknown and without an exception of any other kind. */
  async function expectRefused(token: unknown): Promise<void> {
    const { sessions } = node;
    expect(await sessions.get(token)).toBeNull();
    expect(await sessions.touch(token)).toBeNull();
    expect(await sessions.destroy(token)).toBe(false);
    for (const writing of [
      sessions.update(token, { a: 1 }),
      sessions.update(token, (data) => data),
      sessions.replace(token, {}),
      sessions.regenerate(token),
    ])
      await expect(writing).rejects.toThrow(SessionGoneError);
  }
  async function expectNoCommand(): Promise<void> {
    await monitor.sync();
    expect(monitor.lines.filter((line) => !isUpkeep(line))).toEqual([]);
  }

  it('20 good forms that are unknown, at once: a GET each, and one TIME in front of all', async () => {
    const tokens = Array.from({ length: 20 }, () => newToken(1));
    await Promise.all(tokens.map(async (token) => expect(await node.sessions.get(token)).toBeNull()));
    await monitor.sync();
    const sent = monitor.lines.filter((line) => !isUpkeep(line));
    const names = sent.map((line) => /\] "(\w+)"/.exec(line)?.[1]?.toLowerCase());
    expect(names).toEqual(['time', ...tokens.map(() => 'get')]);
  });

  it('named ones give null and reach no Redis command', async () => {
    const cases: unknown[] = [
      '',
      ' ',
      'x'.repeat(10 * 1024 * 1024),
      'A'.repeat(43),
      'A'.repeat(45),
      `${'A'.repeat(43)}=`,
      `${'A'.repeat(43)}+`,
      `${'A'.repeat(43)}/`,
      `${'A'.repeat(43)}\0`,
      `\0${'A'.repeat(43)}`,
      `${'A'.repeat(44)}\0`,
      `${'A'.repeat(44)}\n`,
      `${'A'.repeat(43)}é`,
      `${'A'.repeat(43)}\ud800`,
      realId,
      ` ${realToken}`,
      `${realToken} `,
      realToken.slice(1),
      realToken.toLowerCase() + '.',
      `sk:{0}:s:${realId}`,
      newToken(PARTITIONS),
      newToken(255),
      'my-own-session-token-0123456789',
      [],
      [realToken],
      [realToken, realToken],
      {},
      { [realToken]: realToken },
      { toString: () => realToken },
      { length: 44 },
      Object.assign([realToken], { length: 44 }),
      new String(realToken),
      Buffer.from(realToken),
      null,
      undefined,
      0,
      NaN,
      true,
      1n,
      Symbol('token'),
      () => realToken,
    ];
    for (const token of cases) await expectRefused(token);
    await expectNoCommand();
    expect((await node.sessions.get(realToken))?.data).toEqual({ name: 'Ada' });
  });

  it('ids and users of the registry: a malformed id is no session and reaches no Redis command', async () => {
    for (const id of ['', realToken, `${realId}\0`, realId.slice(1), 'x'.repeat(10_000_000), '________'])
      expect(await node.registry.kill(id)).toBe(false);
    await expectNoCommand();
  });

  it('any other string, bytes or structure gives null and reaches no Redis command (property)', async () => {
    const wellFormed = (value: unknown): boolean =>
      typeof value === 'string' &&
      /^[A-Za-z0-9_-]{44}$/.test(value) &&
      (Buffer.from(value, 'base64url')[0] ?? 0) < PARTITIONS;
    const near = fc
      .array(fc.constantFrom(...ALPHABET.split('')), { minLength: 42, maxLength: 46 })
      .map((c) => c.join(''));
    const outOfRange = fc
      .tuple(fc.integer({ min: PARTITIONS, max: 255 }), fc.uint8Array({ minLength: 32, maxLength: 32 }))
      .map(([partition, bytes]) => Buffer.from([partition, ...bytes]).toString('base64url'));
    const damaged = fc
      .tuple(fc.nat(43), fc.string({ minLength: 1, maxLength: 1, unit: 'binary' }))
      .filter(([, character]) => !ALPHABET.includes(character))
      .map(([at, character]) => realToken.slice(0, at) + character + realToken.slice(at + 1));
    const queryParsed = fc.letrec((tie) => ({
      value: fc.oneof(
        { depthSize: 'small' },
        fc.string(),
        fc.constant(realToken),
        fc.array(tie('value'), { maxLength: 3 }),
        fc.dictionary(fc.string(), tie('value'), { maxKeys: 3 }),
      ),
    })).value;
    await fc.assert(
      fc.asyncProperty(
        fc
          .oneof(
            fc.string({ unit: 'binary', maxLength: 300 }),
            near,
            outOfRange,
            damaged,
            queryParsed,
            fc.anything(),
          )
          .filter((token) => !wellFormed(token)),
        expectRefused,
      ),
      { numRuns: 1500 },
    );
    await expectNoCommand();
  });

  it('a well-formed token of nobody gives null after exactly one read, beside the question of the time', async () => {
    for (let partition = 0; partition < PARTITIONS; partition++) {
      await monitor.sync();
      monitor.clear();
      expect(await node.sessions.get(newToken(partition))).toBeNull();
      await monitor.sync();
      const sent = monitor.lines.filter((line) => !isUpkeep(line));
      const reads = sent.filter((line) => !line.endsWith('] "time"')); // asked once a second
      expect(reads, sent.join('\n')).toHaveLength(1);
      expect(reads[0]).toMatch(/\] "get" "[^"]+"$/);
    }
  });

  /** Keys of the records that were read. */
  const readKeys = async (): Promise<string[]> => {
    await monitor.sync();
    return monitor.lines.filter((line) => /\] "get" /.test(line)).map((line) => line.split('"')[3]!);
  };
  const sentReads = async (): Promise<number> => (await readKeys()).length;

  it('10,000 distinct forged tokens, in parallel and one after the other, reach Redis at most once each', async () => {
    const tokens = Array.from({ length: 10_000 }, (_, i) => newToken(i % PARTITIONS));
    for (let from = 0; from < tokens.length; from += 100) {
      const some = tokens.slice(from, from + 100);
      // Every second hundred comes twice at the same time: parallel ones share a read.
      const asked = from % 200 === 0 ? [...some, ...some] : some;
      const answers = await Promise.all(asked.map((token) => node.sessions.get(token)));
      expect(answers.every((answer) => answer === null)).toBe(true);
    }
    const keys = await readKeys();
    expect(keys.length).toBeLessThanOrEqual(tokens.length);
    expect(keys.length).toBeGreaterThan(tokens.length * 0.99);
    expect(new Set(keys).size).toBe(keys.length);
  });

  it('one forged token, 10,000 times in turns and in parallel, reaches Redis a few times', async () => {
    const token = newToken(3);
    const began = performance.now();
    const { unknownHits, sharedMisses } = node.cache.stats();
    for (let turn = 0; turn < 100; turn++) {
      const together = await Promise.all(Array.from({ length: 50 }, () => node.sessions.get(token)));
      expect(together.every((answer) => answer === null)).toBe(true);
      for (let i = 0; i < 50; i++) expect(await node.sessions.get(token)).toBeNull();
    }
    // Asked again every 5 s, in which it is remembered.
    const most = 1 + Math.ceil((performance.now() - began) / 5_000);
    const reads = await sentReads();
    expect(reads).toBeGreaterThan(0);
    expect(reads).toBeLessThanOrEqual(most);
    const stats = node.cache.stats();
    expect(stats.unknownHits - unknownHits + stats.sharedMisses - sharedMisses).toBe(10_000 - reads);
  });

  it('forged tokens do not push sessions out of the near cache', async () => {
    expect((await node.sessions.get(realToken))?.source).toMatch(/store|cache/);
    const { evictions, entries } = node.cache.stats();
    await Promise.all(Array.from({ length: 5_000 }, () => node.sessions.get(newToken(1))));
    expect(node.cache.stats()).toMatchObject({ evictions, entries });
    expect((await node.sessions.get(realToken))?.source).toBe('cache');
  });

  it('a token of another prefix gives null after exactly one read, and cannot end the session there', async () => {
    const other = await openNode({ redis: server.url, keyPrefix: 'other:' });
    try {
      const { token } = await other.sessions.create({ name: 'Grace' });
      await monitor.sync();
      monitor.clear();
      expect(await node.sessions.get(token)).toBeNull();
      await monitor.sync();
      expect(await sentReads()).toBe(1);
      expect(await node.sessions.destroy(token)).toBe(false);
      expect((await other.sessions.get(token))?.data).toEqual({ name: 'Grace' });
    } finally {
      await other.close();
    }
  });
});

import { randomBytes } from 'node:crypto';
import { inspect } from 'node:util';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ActiveSession, SessionEventMap } from '../../lib/index.js';
import { dumpAllKeys, RedisMonitor } from '../support/redis-monitor.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { CapturingLogger, openNode, silenceLogger, type Fields, type SessionNode } from './session-node.js';

const EVENTS: readonly (keyof SessionEventMap)[] = [
  'created',
  'destroyed',
  'regenerated',
  'cacheWrite',
  'cacheClear',
  'message',
  'undecodable',
  'storeAvailable',
];

/** Every form in which a token may have got out: any 20 characters of it, and its bytes in hex and base64. */
function traces(token: string): string[] {
  const bytes = Buffer.from(token, 'base64url');
  const secret = bytes.subarray(1);
  return [
    ...Array.from({ length: token.length - 19 }, (_, start) => token.slice(start, start + 20)),
    ...[bytes, secret].flatMap((part) => [
      part.toString('hex'),
      part.toString('hex').toUpperCase(),
      part.toString('base64'),
      part.toString('base64url'),
      part.toString('latin1'),
    ]),
  ];
}

function found(text: string, secrets: readonly string[]): string[] {
  return secrets.filter((secret) => text.includes(secret));
}

/** Everything an error shows to a log that prints all it can. */
const shown = (error: unknown): string =>
  inspect(error, { depth: 10, showHidden: true, maxStringLength: null });

describe('secrecy of tokens and data', () => {
  const prefix = 'sk:';
  let server: RedisServer;
  let monitor: RedisMonitor;
  let logger: CapturingLogger;
  let node: SessionNode;
  let proxy: TcpProxy;
  let listener: Redis;
  let published: string[];
  let events: string[];
  let tokens: string[];
  const marker = `data-${randomBytes(12).toString('hex')}`;

  beforeEach(async () => {
    server = await RedisServer.start();
    proxy = await TcpProxy.start({ targetPort: server.port });
    monitor = await RedisMonitor.open(server.url);
    listener = new Redis(server.url);
    listener.on('error', () => undefined);
    published = [];
    listener.on('pmessage', (...parts: string[]) => published.push(parts.join(' ')));
    await listener.psubscribe('*');
    logger = new CapturingLogger();
    node = await openNode({ redis: proxy.url, keyPrefix: prefix, commandTimeout: '400ms' }, { logger });
    events = [];
    for (const name of EVENTS)
      node.events.on(name, (payload) => events.push(`${name} ${shown(payload)} ${JSON.stringify(payload)}`));
    tokens = [];
  });
  afterEach(async () => {
    await node.close();
    listener.disconnect();
    monitor.close();
    await proxy.close();
    await server.stop();
  });
  afterAll(silenceLogger);

  const keep = <S extends ActiveSession<Fields> | null>(session: S): S => {
    if (session !== null && !tokens.includes(session.token)) tokens.push(session.token);
    return session;
  };
  /** Nothing of any token so far in Redis, in what it was sent, in logs and events; no data outside the record. */
  const expectSilence = async (errors: readonly unknown[] = []): Promise<void> => {
    const secrets = tokens.flatMap(traces);
    const told = [...logger.lines, ...events, ...published, ...errors.map(shown)].join('\n');
    expect(found(told, [...secrets, marker])).toEqual([]);
    if (!server.running) return;
    await monitor.sync();
    expect(found(monitor.lines.join('\n'), secrets)).toEqual([]);
    expect(found(await dumpAllKeys(server.url), secrets)).toEqual([]);
    expect(found(monitor.commandsMatching(/"s?publish"/i).join('\n'), [marker])).toEqual([]);
  };
  const failure = (promise: Promise<unknown>): Promise<unknown> =>
    promise.then(
      () => expect.unreachable('it should have failed'),
      (error: unknown) => error,
    );

  it('the check itself finds a token and data where they are', async () => {
    const session = keep(await node.sessions.create({ note: marker }));
    const raw = new Redis(server.url);
    await raw.set('leak', `x${session.token.slice(3, 23)}x`);
    await expect(expectSilence()).rejects.toThrow();
    await raw.del('leak');
    await expect(expectSilence()).rejects.toThrow(); // MONITOR still has it
    raw.disconnect();
    expect(await dumpAllKeys(server.url)).toContain(marker);
  });

  it('the token is nowhere in Redis, MONITOR, logs and events through every operation', async () => {
    const steps: (() => Promise<unknown>)[] = [];
    for (const userId of [undefined, 'ada']) {
      let session: ActiveSession<Fields>;
      steps.push(
        async () => (session = keep(await node.sessions.create({ note: marker }, userId ? { userId } : {}))),
        async () => node.sessions.get(session.token),
        async () => node.sessions.update(session.token, { more: marker }),
        async () => node.sessions.update(session.token, (data) => ({ ...data, count: 1 })),
        async () => node.sessions.replace(session.token, { note: marker }),
        async () => session.set('field', marker),
        async () => session.delete('field'),
        async () => {
          session.data.draft = marker;
          await session.save();
        },
        async () => node.sessions.touch(session.token),
        async () => session.reload(),
        async () => (session = keep(await node.sessions.regenerate(session.token))),
        async () => keep(await session.regenerate({ userId: 'grace' })),
        async () => node.registry.getUserSessions('grace'),
        async () => node.registry.kill(session.id),
        async () => failure(session.set('late', marker)),
        async () => {
          const last = keep(await node.sessions.create({ note: marker }));
          await node.sessions.destroy(last.token);
          await node.sessions.get(last.token);
        },
      );
    }
    for (const step of steps) {
      await step();
      await expectSilence();
    }
    expect(tokens.length).toBeGreaterThanOrEqual(8);
    expect(events.length).toBeGreaterThan(10);
    expect(published.length).toBeGreaterThan(10);
  });

  it('errors show neither token nor data: gone, bad data, too large, bad argument', async () => {
    const session = keep(await node.sessions.create({ note: marker }));
    const { token } = session;
    const errors = [
      await failure(node.sessions.update(token, { fn: () => marker })),
      await failure(node.sessions.update(token, { note: marker.repeat(20_000) })),
      await failure(node.sessions.create({ note: marker }, { token })),
      await failure(node.sessions.create({ note: marker, self: Symbol(marker) })),
      await failure(node.sessions.regenerate(token, { userId: '' })),
    ];
    await session.destroy();
    session.data.note = `${marker}!`;
    errors.push(
      await failure(session.save()),
      await failure(node.sessions.update(token, { note: marker })),
      await failure(node.sessions.regenerate(token)),
    );
    await expectSilence(errors);
  });

  it('SESSION_STORE_UNAVAILABLE shows neither token nor data: OOM, ACL, cut link, Redis killed in mid-write', async () => {
    const session = keep(await node.sessions.create({ note: marker }));
    const { token } = session;
    const raw = new Redis(server.url);
    raw.on('error', () => undefined);

    await raw.config('SET', 'maxmemory', '1');
    const errors = [
      await failure(node.sessions.update(token, { note: marker, oom: true })),
      await failure(node.sessions.create({ note: marker })),
      await failure(session.set('note', `${marker}2`)),
    ];
    await raw.config('SET', 'maxmemory', '0');

    await raw.call('ACL', 'SETUSER', 'default', '-set');
    errors.push(await failure(node.sessions.update(token, { note: marker, acl: true })));
    await raw.call('ACL', 'SETUSER', 'default', '+@all');
    await expectSilence(errors);

    // The answer never comes, so the write is given up while it is under way.
    proxy.blackhole({ downstream: true });
    errors.push(await failure(node.sessions.update(token, { note: marker, hole: true })));
    proxy.resume();
    await waitFor(() => node.sessions.get(token).catch(() => null));
    await expectSilence(errors);

    const writes = Array.from({ length: 20 }, (_, n) => node.sessions.create({ note: marker, n }));
    const update = node.sessions.update(token, { note: marker, killed: true });
    proxy.blackhole({ downstream: true });
    await server.kill();
    proxy.resume();
    const outcomes = await Promise.allSettled([update, ...writes]);
    for (const outcome of outcomes) if (outcome.status === 'rejected') errors.push(outcome.reason);
    errors.push(await failure(node.sessions.get(token)));
    expect(errors.map((error) => (error as { code: string }).code)).toEqual(
      errors.map(() => 'SESSION_STORE_UNAVAILABLE'),
    );
    expect(errors.length).toBeGreaterThan(10);
    expect(errors.some((error) => (error as Error).cause !== undefined)).toBe(true);
    await expectSilence(errors);
    raw.disconnect();
  });

  it('inspecting or serializing a session shows neither its token nor its data', async () => {
    const session = keep(await node.sessions.create({ note: marker }));
    for (const text of [
      shown(session),
      JSON.stringify(session),
      JSON.stringify({ session }),
      inspect([session]),
    ])
      expect(found(text, [...traces(session.token), marker])).toEqual([]);
  });
});

// Which servers will do: Redis 7.0 and later, Valkey; nothing older.
// Shown to fail when a script uses what 7.0 lacks (SET … IFEQ, ZADD to a command of 7.4), and without the check of the version.
import { readdirSync, readFileSync } from 'node:fs';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { RedisServer } from '../support/redis-server.js';
import { uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { openRegistryNode } from './registry-rig.js';
import { openNode, type SessionNode } from './session-node.js';

/** The oldest that will do. Debian 12 has it, so CI runs on it: what it lacks fails there in any test that comes by it. */
const OLDEST = [7, 0];

function isNewer(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > OLDEST[0]! || (major === OLDEST[0]! && minor > OLDEST[1]!);
}

/** Since when a server has a command, and each of its options by token. */
interface CommandDocs {
  readonly since: string;
  readonly options: ReadonlyMap<string, string>;
}

/** `[name, value, name, value …]`, as RESP2 has maps. */
function asMap(flat: unknown): Map<unknown, unknown> {
  const list = flat as unknown[];
  return new Map(Array.from({ length: list.length / 2 }, (_, n) => [list[2 * n], list[2 * n + 1]] as const));
}

function optionsOf(list: unknown, since: string, found = new Map<string, string>()): Map<string, string> {
  for (const flat of (list as unknown[] | undefined) ?? []) {
    const argument = asMap(flat);
    const own = (argument.get('since') as string | undefined) ?? since;
    if (argument.has('token')) found.set(argument.get('token') as string, own);
    optionsOf(argument.get('arguments'), own, found);
  }
  return found;
}

describe('the server', () => {
  let server: RedisServer;
  let redis: Redis;
  beforeAll(async () => {
    server = await RedisServer.start();
    redis = new Redis(server.url, { protocol: 2 });
  });
  afterAll(async () => {
    redis?.disconnect();
    await server?.stop();
  });

  async function docsOf(command: string): Promise<CommandDocs | null> {
    const [, docs] = (await redis.call('COMMAND', 'DOCS', command)) as [string, unknown];
    if (docs === undefined) return null;
    const map = asMap(docs);
    const since = map.get('since') as string;
    return { since, options: optionsOf(map.get('arguments'), since) };
  }

  it('is the one that SESSIONKIT_SERVER names', async () => {
    const wanted = process.env.SESSIONKIT_SERVER;
    const name = /^server_name:(\w+)/m.exec(await redis.info('server'))?.[1] ?? 'redis';
    if (wanted !== undefined && wanted !== '') expect(name).toBe(wanted);
    expect(name).toMatch(/^(redis|valkey)$/);
  });

  it('every command and option in the scripts is in Redis 7.0', async () => {
    const folder = new URL('../../lib/store/scripts/', import.meta.url);
    const calls = readdirSync(folder).flatMap((file) =>
      [...readFileSync(new URL(file, folder), 'utf8').matchAll(/\bp?call\('(\w+)'([^\n]*)/g)].map(
        ([, command, rest]) => ({ command: command!, options: rest!.match(/(?<=, ')[A-Z]+(?=')/g) ?? [] }),
      ),
    );
    expect(calls.length).toBeGreaterThan(40);
    expect(calls.flatMap(({ options }) => options)).toEqual(expect.arrayContaining(['PXAT', 'GT', 'XX']));
    const tooNew: string[] = [];
    for (const { command, options } of calls) {
      const docs = await docsOf(command);
      if (docs === null || isNewer(docs.since)) tooNew.push(command);
      for (const option of options) {
        const since = docs?.options.get(option);
        if (since === undefined || isNewer(since)) tooNew.push(`${command} ${option}`);
      }
    }
    expect(tooNew).toEqual([]);
  });

  it('every command that a process sends is in Redis 7.0', async () => {
    await redis.config('RESETSTAT');
    const node = await openRegistryNode({
      redis: server.url,
      keyPrefix: uniquePrefix(),
      sweepInterval: '100ms',
      touchInterval: 0,
      maxSessionsPerUser: 2,
      rotateEvery: '1m',
    });
    try {
      await waitFor(() => node.subscriber.live);
      const { sessions, registry } = node;
      const tokens: string[] = [];
      for (let n = 0; n < 3; n++) tokens.push((await sessions.create({ n }, { userId: 'ada' })).token);
      const { token } = await sessions.create({}, { idleTimeout: 0, absoluteTimeout: 0 });
      await sessions.update(token, { n: 1 });
      await sessions.touch(token);
      const moved = await sessions.regenerate(token);
      await sessions.login(moved, 'bob');
      await (await sessions.get(tokens[2]!))!.rotate();
      const gone = await sessions.create({}, { idleTimeout: 1_000 });
      await registry.getAllSessions({ activeWithin: '1m' });
      await registry.getAllUsers();
      await registry.getUserSessions('ada');
      await registry.getOldestUserSession('ada');
      await registry.count({ activeWithin: '1m' });
      await registry.kill(moved.id);
      await registry.killUser('ada');
      await registry.now();
      await waitFor(() => node.expired.some(({ id }) => id === gone.id), { timeoutMs: 20_000 });
      await registry.killAll();
    } finally {
      await node.close();
    }
    const stats = await redis.info('commandstats');
    const used = [...stats.matchAll(/^cmdstat_([\w|-]+):/gm)].map(([, name]) => name!);
    expect(used).toEqual(expect.arrayContaining(['evalsha', 'subscribe', 'role', 'info', 'publish', 'zadd']));
    const tooNew: string[] = [];
    for (const command of used) {
      // ioredis tells every server its name, and does without where that is refused (before 7.2).
      if (command === 'client|setinfo') continue;
      const docs = await docsOf(command);
      if (docs === null || isNewer(docs.since)) tooNew.push(command);
    }
    expect(tooNew).toEqual([]);
  });

  describe('of an older version', () => {
    let relay: Server;
    let url: string;
    let version: string;
    const sockets = new Set<Socket>();
    const nodes: SessionNode[] = [];

    // A real server, but for one digit of what INFO says of it.
    beforeEach(async () => {
      version = '6';
      relay = createServer((client) => {
        const upstream = connect(server.port, '127.0.0.1');
        for (const socket of [client, upstream]) {
          sockets.add(socket.on('error', () => undefined));
          socket.on('close', () => {
            client.destroy();
            upstream.destroy();
          });
        }
        client.pipe(upstream);
        upstream.on('data', (chunk: Buffer) => {
          const text = chunk.toString('latin1').replace(/(?<=redis_version:)\d/, version);
          client.write(Buffer.from(text, 'latin1'));
        });
      });
      await new Promise<void>((resolve) => relay.listen(0, '127.0.0.1', resolve));
      url = `redis://127.0.0.1:${(relay.address() as AddressInfo).port}`;
    });
    const cut = () => {
      for (const socket of sockets) socket.destroy();
      sockets.clear();
    };
    afterEach(async () => {
      await Promise.all(nodes.splice(0).map((node) => node.close()));
      cut();
      await new Promise((resolve) => relay.close(resolve));
    });

    it('stops the start with an error that names option, version and fix; nothing is written to it', async () => {
      const keyPrefix = uniquePrefix();
      const error = await openNode({ redis: url, keyPrefix }, { live: false }).then(
        (node) => void nodes.push(node),
        (reason: Error) => reason,
      );
      expect(error).toMatchObject({ name: 'SessionOptionsError', code: 'SESSION_OPTIONS' });
      expect((error as Error).message).toMatch(
        /"redis" leads to Redis 6\.\d+\.\d+; 7\.0 or newer is needed \(or Valkey\)\. Upgrade the server\./,
      );
      expect(await redis.keys(`${keyPrefix}*`)).toEqual([]);
    });

    it('that takes the place of a newer one is not written to, and sessions are back when that is', async () => {
      version = '7';
      const node = await openNode({ redis: url, keyPrefix: uniquePrefix(), commandTimeout: '300ms' });
      nodes.push(node);
      const { token, id } = await node.sessions.create({ n: 1 });
      version = '6';
      cut();
      await expect(node.sessions.update(token, { n: 2 })).rejects.toMatchObject({
        name: 'SessionStoreUnavailableError',
      });
      version = '7';
      await waitFor(() => node.sessions.get(token, { fresh: true }).catch(() => null), { timeoutMs: 20_000 });
      expect(await node.sessions.get(token, { fresh: true })).toMatchObject({ id, data: { n: 1 } });
    });
  });
});

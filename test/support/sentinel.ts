// A master, its replicas and three sentinels for tests: on free ports, without persistence, gone with the test process.
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { freePort } from './free-port.js';
import { dieWithParent, exitedWithin } from './orphan-guard.js';
import { ensureRedisServer, RedisServer } from './redis-server.js';
import { waitFor } from './wait-for.js';

const HOST = '127.0.0.1';
const NAME = 'mymaster';
const SENTINELS = 3;
const START_DEADLINE_MS = 15_000;

/** How to start; times are milliseconds. */
export interface SentinelSetOptions {
  /** 1 by default. */
  replicas?: number;
  /** Silence after which a sentinel takes a server for dead, 500 by default. */
  downAfterMs?: number;
  /** 3000 by default. */
  failoverTimeoutMs?: number;
}

/** What the module's `redis` option takes to find the master. */
export interface SentinelAddress {
  sentinels: { host: string; port: number }[];
  name: string;
}

interface Sentinel {
  port: number;
  child: ChildProcess;
  directory: string;
  client: Redis;
  log: () => string;
}

/** One master with its replicas, watched by three sentinels of which two must agree. */
export class SentinelSet {
  /** The data servers; which of them is the master changes. */
  readonly servers: RedisServer[] = [];
  readonly #sentinels: Sentinel[] = [];

  /** Resolves once the replicas are in sync and all sentinels know them and each other; about 2 s. */
  static async start(options: SentinelSetOptions = {}): Promise<SentinelSet> {
    const set = new SentinelSet();
    try {
      await set.#launch(options);
    } catch (error) {
      await set.stop();
      throw error;
    }
    return set;
  }

  /** For the module's `redis` and `subscriber` options, and for ioredis itself. */
  get address(): SentinelAddress {
    return { sentinels: this.#sentinels.map(({ port }) => ({ host: HOST, port })), name: NAME };
  }

  /** Port of the master as the sentinels name it; the first that answers is believed. */
  async masterPort(): Promise<number> {
    return Promise.any(
      this.#sentinels.map(async ({ client }) => {
        const found = (await client.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', NAME)) as string[];
        return Number(found[1]);
      }),
    );
  }

  /** The master as the sentinels name it. */
  async master(): Promise<RedisServer> {
    return this.#serverAt(await this.masterPort());
  }

  /** All servers that are not the master. */
  async replicas(): Promise<RedisServer[]> {
    const port = await this.masterPort();
    return this.servers.filter((server) => server.port !== port);
  }

  /** `SENTINEL FAILOVER`: a replica takes over although the master is well. Resolves when it is under way. */
  async failover(): Promise<void> {
    // A sentinel that has just seen a failover may still have one under way, or know of no good replica yet.
    await waitFor(async () => (await this.#first().client.call('SENTINEL', 'FAILOVER', NAME)) === 'OK', {
      timeoutMs: START_DEADLINE_MS,
      intervalMs: 50,
      message: 'SENTINEL FAILOVER to be accepted',
    });
  }

  /**
   * Waits until all sentinels name another master than `formerPort` and that one says so itself; gives it back. From
   * then on whoever asks for the master gets the new one.
   */
  async promoted(formerPort: number, timeoutMs = 10_000): Promise<RedisServer> {
    return waitFor(
      async () => {
        const named = await Promise.all(
          this.#sentinels.map(async ({ client }) => {
            const found = (await client.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', NAME)) as string[];
            return Number(found[1]);
          }),
        );
        const port = named[0] ?? 0;
        if (named.some((other) => other !== port) || port === formerPort) return null;
        return (await roleOf(port)) === 'master' ? this.#serverAt(port) : null;
      },
      { timeoutMs, message: 'the sentinels to promote a replica' },
    );
  }

  /**
   * Waits until every running server but the master is a replica of it and in sync, and the sentinels hold it for alive.
   * Left alone, sentinels let a former master that came back be one for some 10 s; from here on they hurry.
   */
  async settled(timeoutMs = 10_000): Promise<void> {
    for (const { client } of this.#sentinels)
      await client.call('SENTINEL', 'DEBUG', 'INFO-PERIOD', 500, 'PUBLISH-PERIOD', 250);
    await waitFor(
      async () => {
        const port = await this.masterPort();
        const running = this.servers.filter(({ running }) => running);
        const inSync = await Promise.all(
          running.map(async (server) => {
            if (server.port === port) return true;
            const role = await ask(server.port, (client) => client.call('ROLE') as Promise<unknown[]>);
            return role[0] === 'slave' && role[2] === port && role[3] === 'connected';
          }),
        );
        const known = await Promise.all(this.#sentinels.map((sentinel) => goodReplicas(sentinel.client)));
        return inSync.every(Boolean) && known.every((count) => count >= running.length - 1);
      },
      { timeoutMs, intervalMs: 25, message: 'master, replicas and sentinels to agree' },
    );
  }

  /** Ends every process that was started here, frozen ones too, and removes their directories. May be repeated. */
  async stop(): Promise<void> {
    await Promise.all([
      ...this.#sentinels.splice(0).map(async ({ child, client, directory }) => {
        client.disconnect();
        child.kill('SIGKILL');
        await exitedWithin(child, 5_000);
        rmSync(directory, { recursive: true, force: true });
      }),
      ...this.servers.splice(0).map((server) => server.kill()),
    ]);
  }

  async #launch({
    replicas = 1,
    downAfterMs = 500,
    failoverTimeoutMs = 3_000,
  }: SentinelSetOptions): Promise<void> {
    const fast = ['--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1'];
    const master = await RedisServer.start({ args: fast });
    this.servers.push(master);
    const replicaOf = [...fast, '--replicaof', HOST, String(master.port)];
    for (let n = 0; n < replicas; n++) this.servers.push(await RedisServer.start({ args: replicaOf }));
    // The sentinels look at INFO only every 10 s: what they are to know must be true when they first look.
    await waitFor(
      () =>
        ask(master.port, async (client) => {
          const [, , inSync] = (await client.call('ROLE')) as [string, number, unknown[]];
          return inSync.length === replicas;
        }),
      { timeoutMs: START_DEADLINE_MS, message: 'the replicas to be in sync' },
    );
    for (let n = 0; n < SENTINELS; n++) {
      this.#sentinels.push(
        await startSentinel([
          `sentinel monitor ${NAME} ${HOST} ${master.port} 2`,
          `sentinel down-after-milliseconds ${NAME} ${downAfterMs}`,
          `sentinel failover-timeout ${NAME} ${failoverTimeoutMs}`,
          `sentinel parallel-syncs ${NAME} 1`,
        ]),
      );
    }
    await waitFor(
      async () => {
        for (const { client } of this.#sentinels) {
          const others = (await client.call('SENTINEL', 'SENTINELS', NAME)) as unknown[];
          if (others.length !== SENTINELS - 1 || (await goodReplicas(client)) !== replicas) return false;
        }
        return true;
      },
      {
        timeoutMs: START_DEADLINE_MS,
        message: `the sentinels to find each other and the replicas\n${this.#first().log()}`,
      },
    );
  }

  #first(): Sentinel {
    const [sentinel] = this.#sentinels;
    if (sentinel === undefined) throw new Error('SentinelSet: not running');
    return sentinel;
  }

  #serverAt(port: number): RedisServer {
    const server = this.servers.find((candidate) => candidate.port === port);
    if (server === undefined)
      throw new Error(`SentinelSet: the sentinels name port ${port}, which is not ours`);
    return server;
  }
}

/** One command on a connection of its own; rejects after 500 ms, so that a frozen server holds nobody up. */
async function ask<T>(port: number, command: (client: Redis) => Promise<T>): Promise<T> {
  const client = new Redis({
    port,
    host: HOST,
    lazyConnect: true,
    commandTimeout: 500,
    connectTimeout: 500,
    retryStrategy: () => null,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return await command(client);
  } finally {
    client.disconnect();
  }
}

async function roleOf(port: number): Promise<unknown> {
  return ((await ask(port, (client) => client.call('ROLE'))) as unknown[])[0];
}

/** Replicas a sentinel holds for alive. Not their link to the master: a sentinel looks at that only every 10 s. */
async function goodReplicas(client: Redis): Promise<number> {
  const replicas = (await client.call('SENTINEL', 'REPLICAS', NAME)) as string[][];
  return replicas.filter((fields) => {
    return fields[fields.indexOf('flags') + 1] === 'slave';
  }).length;
}

async function startSentinel(config: readonly string[]): Promise<Sentinel> {
  const binary = ensureRedisServer();
  const deadline = Date.now() + START_DEADLINE_MS;
  for (;;) {
    const port = await freePort();
    const directory = mkdtempSync(join(tmpdir(), 'sessionkit-sentinel-'));
    const file = join(directory, 'sentinel.conf');
    // Sentinel rewrites this file, so it must be one.
    writeFileSync(file, [`port ${port}`, `bind ${HOST}`, `dir ${directory}`, ...config, ''].join('\n'));
    const child = spawn(binary, [file, '--sentinel'], { stdio: ['ignore', 'pipe', 'pipe'] });
    dieWithParent(child, directory);
    let log = '';
    const collect = (chunk: Buffer): string => (log = (log + chunk.toString('utf8')).slice(-16_384));
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    // RESP2: SENTINEL's answers are then flat lists, whatever ioredis makes of maps.
    const client = new Redis({ port, host: HOST, protocol: 2, maxRetriesPerRequest: null });
    client.on('error', () => undefined);
    try {
      await waitFor(
        async () =>
          child.exitCode !== null || (await client.info('server')).includes(`process_id:${child.pid ?? 0}\r`),
        { message: 'a sentinel to answer' },
      );
    } catch (error) {
      child.kill('SIGKILL');
      client.disconnect();
      throw new Error(`Sentinel on port ${port}:\n${log}`, { cause: error });
    }
    if (child.exitCode === null) return { port, child, directory, client, log: () => log };
    client.disconnect();
    rmSync(directory, { recursive: true, force: true });
    if (!/address already in use/i.test(log) || Date.now() >= deadline)
      throw new Error(`Sentinel on port ${port}:\n${log}`);
  }
}

// A Redis Cluster for tests: masters and replicas on free ports of loopback, without persistence, gone with the test process.
import { Redis } from 'ioredis';
import { freePort } from './free-port.js';
import { RedisServer } from './redis-server.js';
import { waitFor } from './wait-for.js';

const HOST = '127.0.0.1';
const SLOTS = 16_384;
const START_DEADLINE_MS = 20_000;

/** How to start a cluster. */
export interface ClusterSetOptions {
  /** 3 by default. */
  masters?: number;
  /** Of each master, 1 by default. */
  replicas?: number;
  /** Silence after which a node is taken for dead, in milliseconds; 1000 by default. */
  nodeTimeoutMs?: number;
}

/** What a node says of the cluster. */
interface NodeView {
  readonly id: string;
  readonly port: number;
  readonly isMaster: boolean;
  readonly isWell: boolean;
  /** Id of its master. */
  readonly masterId: string | null;
  readonly slots: readonly (readonly [first: number, last: number])[];
}

/** Masters that share the slots evenly, each with its replicas. */
export class ClusterSet {
  /** All nodes; which of them are masters changes. */
  readonly servers: RedisServer[] = [];
  readonly #clients = new Map<RedisServer, Redis>();

  /** Resolves once every node says that the cluster is well and all replicas follow their masters; about 3 s. */
  static async start(options: ClusterSetOptions = {}): Promise<ClusterSet> {
    const set = new ClusterSet();
    try {
      await set.#launch(options);
    } catch (error) {
      await set.stop();
      throw error;
    }
    return set;
  }

  /** For the module's `redis` option. */
  get nodes(): { host: string; port: number }[] {
    return this.servers.map(({ port }) => ({ host: HOST, port }));
  }

  /** A client to one node, for commands of the test. */
  client(server: RedisServer): Redis {
    let client = this.#clients.get(server);
    if (client === undefined) {
      client = new Redis({
        port: server.port,
        host: HOST,
        protocol: 2,
        commandTimeout: 1_000,
        maxRetriesPerRequest: 0,
        retryStrategy: () => 50,
      });
      client.on('error', () => undefined);
      this.#clients.set(server, client);
    }
    return client;
  }

  /** The master that owns a slot, as the first node that answers sees it. */
  async ownerOf(slot: number): Promise<RedisServer> {
    const owner = (await this.#view()).find(({ slots }) =>
      slots.some(([first, last]) => first <= slot && slot <= last),
    );
    if (owner === undefined) throw new Error(`ClusterSet: nobody owns slot ${slot}`);
    return this.#at(owner.port);
  }

  /** Slot of a key, as the servers compute it. */
  async slotOf(key: string): Promise<number> {
    return Number(await this.client(this.servers.find(({ running }) => running)!).cluster('KEYSLOT', key));
  }

  /** The replicas of a master that are alive. */
  async replicasOf(master: RedisServer): Promise<RedisServer[]> {
    const view = await this.#view();
    const { id } = view.find(({ port }) => port === master.port)!;
    return view.filter(({ masterId, isWell }) => masterId === id && isWell).map(({ port }) => this.#at(port));
  }

  /** `CLUSTER FAILOVER` on a replica of this master: both agree, nothing is lost. Resolves when all nodes know. */
  async failover(master: RedisServer): Promise<RedisServer> {
    const [replica] = await this.replicasOf(master);
    if (replica === undefined) throw new Error('ClusterSet: the master has no replica');
    // It may refuse right after another failover, and it may give up.
    await waitFor(
      async () => {
        if ((await this.#view(replica)).find(({ port }) => port === replica.port)?.isMaster) return true;
        await this.client(replica).cluster('FAILOVER');
        return false;
      },
      { timeoutMs: START_DEADLINE_MS, intervalMs: 100, message: 'a replica to take over' },
    );
    await this.settled();
    return replica;
  }

  /**
   * Moves a slot with its keys to another master, some keys at a time, as `redis-cli --cluster reshard` does.
   *
   * @param onMoving run when the first have been moved
   */
  async migrate(
    slot: number,
    target: RedisServer,
    onMoving: () => Promise<void> = async () => undefined,
  ): Promise<void> {
    const source = await this.ownerOf(slot);
    const view = await this.#view();
    const idOf = (server: RedisServer) => view.find(({ port }) => port === server.port)!.id;
    const [from, to] = [this.client(source), this.client(target)];
    await to.cluster('SETSLOT', slot, 'IMPORTING', idOf(source));
    await from.cluster('SETSLOT', slot, 'MIGRATING', idOf(target));
    for (let isFirst = true; ; isFirst = false) {
      const keys = (await from.cluster('GETKEYSINSLOT', slot, 5)) as string[];
      if (keys.length === 0) break;
      await from.call('MIGRATE', HOST, target.port, '', 0, 5_000, 'KEYS', ...keys);
      if (isFirst) await onMoving();
    }
    await to.cluster('SETSLOT', slot, 'NODE', idOf(target));
    await from.cluster('SETSLOT', slot, 'NODE', idOf(target));
    await this.settled();
  }

  /** Waits until every node that runs sees the same owners, the cluster well, and all running replicas in step. */
  async settled(timeoutMs = START_DEADLINE_MS): Promise<void> {
    await waitFor(
      async () => {
        const running = this.servers.filter((server) => server.running);
        const views = await Promise.all(
          running.map(async (server) => {
            const info = String(await this.client(server).cluster('INFO'));
            if (!info.includes('cluster_state:ok')) return null;
            const view = await this.#view(server);
            const self = view.find(({ port }) => port === server.port)!;
            if (!self.isMaster) {
              const replication = await this.client(server).info('replication');
              if (!replication.includes('master_link_status:up')) return null;
            }
            const owners = view
              .filter(({ isMaster, slots }) => isMaster && slots.length > 0)
              .map(({ port, slots }) => `${port}:${JSON.stringify(slots)}`);
            return owners.sort().join();
          }),
        );
        return views.every((view) => view !== null && view === views[0]);
      },
      { timeoutMs, intervalMs: 50, message: 'all nodes to agree' },
    );
  }

  /** Ends every process that was started here, frozen ones too. May be repeated. */
  async stop(): Promise<void> {
    for (const client of this.#clients.values()) client.disconnect();
    this.#clients.clear();
    await Promise.all(this.servers.splice(0).map((server) => server.kill()));
  }

  async #launch({ masters = 3, replicas = 1, nodeTimeoutMs = 1_000 }: ClusterSetOptions): Promise<void> {
    const count = masters * (1 + replicas);
    this.servers.push(
      ...(await Promise.all(
        Array.from({ length: count }, async () =>
          RedisServer.start({
            args: [
              '--cluster-enabled yes --cluster-config-file nodes.conf',
              `--cluster-node-timeout ${nodeTimeoutMs} --cluster-port ${await freePort()}`,
              '--repl-diskless-sync-delay 0 --repl-ping-replica-period 1',
            ].flatMap((words) => words.split(' ')),
          }),
        ),
      )),
    );
    const owners = this.servers.slice(0, masters);
    const [first] = owners as [RedisServer];
    for (const [nth, server] of this.servers.entries()) {
      await this.client(server).cluster('SET-CONFIG-EPOCH', nth + 1);
      const bus = /cluster-port\n(\d+)/.exec(
        ((await this.client(first).config('GET', 'cluster-port')) as string[]).join('\n'),
      )![1]!;
      if (server !== first) await this.client(server).cluster('MEET', HOST, first.port, Number(bus));
    }
    const share = Math.floor(SLOTS / masters);
    for (const [nth, server] of owners.entries()) {
      const last = nth === masters - 1 ? SLOTS - 1 : (nth + 1) * share - 1;
      await this.client(server).cluster('ADDSLOTSRANGE', nth * share, last);
    }
    await waitFor(
      async () => {
        for (const server of this.servers) if ((await this.#view(server)).length < count) return false;
        return true;
      },
      { timeoutMs: START_DEADLINE_MS, intervalMs: 50, message: 'the nodes to meet' },
    );
    const view = await this.#view(first);
    for (const [nth, server] of this.servers.slice(masters).entries()) {
      const { id } = view.find(({ port }) => port === owners[nth % masters]!.port)!;
      await this.client(server).cluster('REPLICATE', id);
    }
    await this.settled();
  }

  async #view(server?: RedisServer): Promise<NodeView[]> {
    const asked = server === undefined ? this.servers.filter(({ running }) => running) : [server];
    const text = await Promise.any(asked.map(async (one) => String(await this.client(one).cluster('NODES'))));
    return text
      .trim()
      .split('\n')
      .map((line) => {
        const [id = '', address = '', flags = '', masterId = '-', , , , link = '', ...slots] =
          line.split(' ');
        return {
          id,
          port: Number(/:(\d+)@/.exec(address)?.[1]),
          isMaster: /\bmaster\b/.test(flags),
          isWell: link === 'connected' && !/fail|noaddr|handshake/.test(flags),
          masterId: masterId === '-' ? null : masterId,
          slots: slots
            .filter((range) => !range.startsWith('['))
            .map((range) => {
              const [from = '', to = from] = range.split('-');
              return [Number(from), Number(to)] as const;
            }),
        };
      });
  }

  #at(port: number): RedisServer {
    const server = this.servers.find((candidate) => candidate.port === port);
    if (server === undefined) throw new Error(`ClusterSet: port ${port} is not ours`);
    return server;
  }
}

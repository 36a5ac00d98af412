import { setTimeout as delay } from 'node:timers/promises';
import { Logger } from '@nestjs/common';
import type { StoreConnection } from '../core/store-connection.interface.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import type { ClusterTopology } from './cluster-topology.js';
import type { RedisConnection } from './redis-connection.js';
import { redirectionOf } from './redis-error.js';
import {
  evaluation,
  type Argument,
  type Attempt,
  type CommandPurpose,
  type RedisLinks,
  type Reply,
} from './redis-links.js';
import type { Script } from './scripts/script.js';

/** How often the table of slots is asked for while a partition cannot be reached. Milliseconds. */
const LOOK_EVERY_MS = 250;
/** After this a command is tried again that was refused because its slot is on the move, doubled each time up to the second. */
const PAUSE_MS = { first: 10, most: 100 };

/** A master of the Cluster as the subscriber sees it. */
export interface ClusterMaster {
  /** `host:port` */
  readonly node: string;
  readonly commands: StoreConnection;
  readonly partitions: readonly number[];
}

interface Master {
  readonly link: RedisConnection;
  /** Rejects if the options do not fit the server. */
  readonly opened: Promise<void>;
  readonly commands: StoreConnection;
  /** Its link is there, and its breaker closed. */
  available: boolean;
}

/**
 * One connection to each master that owns a partition. A partition is reached through its owner's connection only, the
 * same server that the subscriber listens to for it, so that no copy is made of what another server said.
 *
 * Within `commandTimeoutMs` a command follows a slot that has moved (MOVED), asks where it is moving to (ASK), and waits
 * while the Cluster cannot answer (TRYAGAIN, CLUSTERDOWN) or has no master for it.
 */
export class RedisCluster implements RedisLinks {
  readonly #logger = new Logger('SessionModule');
  readonly #masters = new Map<string, Master>();
  readonly #redirected: ((partition: number) => void)[] = [];
  #owners: readonly (Master | null)[] = [];
  #onMasters: ((masters: readonly ClusterMaster[]) => void) | undefined;
  /** Commands that wait for owners to change. */
  readonly #waiting = new Set<() => void>();
  #watch: NodeJS.Timeout | undefined;
  #saidAvailable = false;
  #closed = false;

  /**
   * @param connectTo makes the link to a node, not yet open; tells of it when it is lost or back
   * @param partitionOf the partition of a key
   * @param onAvailable told `true` when every partition can be reached, `false` when one no longer can
   */
  constructor(
    private readonly topology: ClusterTopology,
    private readonly connectTo: (node: string, onAvailable: (available: boolean) => void) => RedisConnection,
    private readonly partitionOf: (key: string) => number,
    private readonly commandTimeoutMs: number,
    private readonly onAvailable: (available: boolean) => void,
  ) {}

  /** @throws {SessionOptionsError} if the options do not fit the servers */
  async open(): Promise<void> {
    this.topology.onChange(() => this.#reroute());
    this.#watch = setInterval(() => {
      if (!this.connected) this.topology.refresh();
    }, LOOK_EVERY_MS).unref();
    const isOver = new AbortController();
    const tooLate = delay(this.commandTimeoutMs, undefined, { ref: false, signal: isOver.signal });
    await Promise.race([this.topology.start(), tooLate]);
    isOver.abort();
    tooLate.catch(() => undefined);
    this.#reroute();
    await Promise.all([...this.#masters.values()].map(({ opened }) => opened));
    if (!this.connected) {
      this.#logger.warn(
        `The Redis Cluster does not answer yet (${this.topology.lastProblem}), or not for all slots: requests that need a ` +
          'session there get 503 until it does. Check the "redis" option.',
      );
    }
  }

  get connected(): boolean {
    return this.#owners.length > 0 && this.#owners.every((owner) => owner?.link.connected === true);
  }

  get breaker(): 'closed' | 'open' {
    return this.#owners.some((owner) => owner?.link.breaker === 'open') ? 'open' : 'closed';
  }

  linkOf(partition: number): RedisConnection | null {
    return this.#owners[partition]?.link ?? null;
  }

  /** Told the masters and their partitions now and whenever they change, before any command takes its new way. */
  follow(onMasters: (masters: readonly ClusterMaster[]) => void): void {
    this.#onMasters = onMasters;
    onMasters(this.#current());
  }

  /** Told of a partition whose slot another server, or another one too, has answered for. */
  onRedirected(listener: (partition: number) => void): void {
    this.#redirected.push(listener);
  }

  run(
    operation: string,
    writes: boolean,
    script: Script,
    keys: readonly string[],
    args: readonly Argument[],
    purpose?: CommandPurpose,
  ): Promise<Reply> {
    const partition = this.partitionOf(keys[0]!);
    return this.#send(partition, operation, writes, evaluation(script.sharded, keys, args), purpose);
  }

  async read<T>(
    partition: number,
    operation: string,
    command: Attempt<T>,
    purpose?: CommandPurpose,
  ): Promise<T> {
    return (await this.#send(partition, operation, false, command, purpose)).value as T;
  }

  async close(): Promise<void> {
    clearInterval(this.#watch);
    // Masters may be found meanwhile, by what is under way and may finish.
    const closed = new Set<Master>();
    for (let open = [...this.#masters.values()]; open.length > 0;) {
      await Promise.all(open.map(({ link }) => link.close()));
      for (const master of open) closed.add(master);
      open = [...this.#masters.values()].filter((master) => !closed.has(master));
    }
    this.#closed = true;
    for (const wake of this.#waiting) wake();
  }

  async #send(
    partition: number,
    operation: string,
    writes: boolean,
    attempt: Attempt,
    purpose?: CommandPurpose,
  ): Promise<Reply> {
    const until = performance.now() + this.commandTimeoutMs;
    let uncertain = false;
    let asked: RedisConnection | null = null;
    for (let pause = PAUSE_MS.first; ;) {
      const left = until - performance.now();
      const owner = this.linkOf(partition);
      const link = asked ?? owner;
      if (link === null) {
        if (left <= 0 || this.#closed)
          throw new SessionStoreUnavailableError(
            operation,
            `the cluster has named no master for these sessions within ${this.commandTimeoutMs} ms (option "commandTimeout")`,
            writes && uncertain,
          );
        await this.#changed(left);
        continue;
      }
      try {
        const sent = asked === null ? attempt : asking(attempt);
        const reply = await link.send(operation, writes, sent, purpose, Math.max(left, 1));
        return uncertain ? { ...reply, uncertain } : reply;
      } catch (error) {
        if (!(error instanceof SessionStoreUnavailableError)) throw error;
        uncertain ||= error.outcomeUnknown;
        const redirection = redirectionOf(error.cause);
        const hasMoved = asked === null && this.linkOf(partition) !== link;
        const rest = until - performance.now();
        // An answer that comes too late would leave it unknown what became of a write: rather none.
        const needed = redirection === null || redirection.kind === 'ASK' ? 0 : 2 * pause;
        if (rest <= needed || this.#closed || (redirection === null && !hasMoved)) {
          if (!uncertain || error.outcomeUnknown) throw error;
          throw new SessionStoreUnavailableError(
            operation,
            'the slot of these sessions moved meanwhile',
            true,
            {
              cause: error.cause,
            },
          );
        }
        asked = null;
        if (redirection === null) continue;
        if (redirection.kind === 'ASK') {
          this.#tellRedirected(partition);
          asked = this.#masterAt(redirection.node).link;
          continue;
        }
        if (redirection.kind === 'MOVED') this.#tellRedirected(partition);
        if (redirection.kind === 'TRYAGAIN') {
          await delay(pause); // the owner is the same
        } else {
          this.topology.refresh();
          await this.#changed(pause);
        }
        pause = Math.min(pause * 2, PAUSE_MS.most);
      }
    }
  }

  #tellRedirected(partition: number): void {
    for (const listener of this.#redirected) listener(partition);
  }

  #reroute(): void {
    if (this.#closed) return;
    const owners = this.topology.owners;
    this.#owners = owners.map((node) => (node === null ? null : this.#masterAt(node)));
    const gone = [...this.#masters].filter(([node]) => !owners.includes(node));
    for (const [node, { link }] of gone) {
      this.#masters.delete(node);
      void link.retire();
    }
    this.#onMasters?.(this.#current());
    for (const wake of this.#waiting) wake();
    this.#say();
  }

  #masterAt(node: string): Master {
    const known = this.#masters.get(node);
    if (known !== undefined) return known;
    const link = this.connectTo(node, (available) => {
      master.available = available;
      this.#say();
    });
    link.onLost(() => this.topology.refresh());
    const commands: StoreConnection = {
      onLost: (listener) => link.onLost(listener),
      serverRunId: () => link.serverRunId(),
      serverRole: () => link.serverRole(),
      exists: (key) => link.exists(key),
      suspect: (why) => {
        link.suspect(why);
        this.topology.refresh();
      },
    };
    const master: Master = { link, commands, opened: link.open(), available: false };
    master.opened.catch(() => undefined); // of one found later, which has said itself what is wrong
    this.#masters.set(node, master);
    return master;
  }

  #current(): ClusterMaster[] {
    return [...this.#masters].flatMap(([node, master]) => {
      const partitions = this.#owners.flatMap((owner, partition) => (owner === master ? [partition] : []));
      return partitions.length === 0 ? [] : [{ node, commands: master.commands, partitions }];
    });
  }

  #say(): void {
    const available = this.#owners.length > 0 && this.#owners.every((owner) => owner?.available === true);
    if (available === this.#saidAvailable || this.#closed) return;
    this.#saidAvailable = available;
    this.onAvailable(available);
  }

  /** Waits for owners to change, but no longer than so many milliseconds. */
  #changed(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.#waiting.add(wake);
    });
  }
}

/** The same commands, each after `ASKING`: the node is to answer although the slot is not its own yet. */
function asking(attempt: Attempt): Attempt {
  return (client, forgotten, turn) => {
    const inFront = new Proxy(client, {
      get(target, name) {
        const member: unknown = Reflect.get(target, name);
        if (typeof member !== 'function') return member;
        return (...args: unknown[]): unknown => {
          target.asking().catch(() => undefined); // the command behind it fails too
          return Reflect.apply(member, target, args);
        };
      },
    });
    return attempt(inFront, forgotten, turn);
  };
}

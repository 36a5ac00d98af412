// One Redis server and readers whose links to it go through proxies, each its own, under the same faults.
import type { Redis } from 'ioredis';
import { Redis as Client } from 'ioredis';
import type { SessionModuleOptions } from '../../../lib/index.js';
import { uniquePrefix } from '../../support/redis-url.js';
import { RedisServer } from '../../support/redis-server.js';
import { TcpProxy } from '../../support/tcp-proxy.js';
import {
  describeReport,
  expectCaught,
  expectCoherent,
  now,
  Observation,
  type ReadReport,
  type Reader,
  type ReaderSettings,
  type Weakness,
  type WriterLoad,
} from './observation.js';

/** Short, so that a test sees several leases end in seconds. The bound under test is `leaseMs`. */
export const COHERENCE = { leaseMs: 1_000, heartbeatMs: 200 };

export interface RigSettings {
  /** Names of readers, and what each is deprived of. `{ full: 'none', weak: … }` in a test. */
  readers: Record<string, Weakness>;
  coherence?: { leaseMs: number; heartbeatMs: number };
  load?: Partial<WriterLoad>;
  /** By reader's name, for those with a pace of their own. */
  paces?: Record<string, NonNullable<ReaderSettings['pace']>>;
  /** Readers whose S goes straight to the server: a proxy's buffers would hide that they do not read. */
  direct?: string[];
}

/** A reader's links. */
export interface Links {
  /** Command connection C. */
  readonly c: TcpProxy;
  /** Subscriber connection S. */
  readonly s: TcpProxy;
  /** Names of the commands that have reached the server on S, oldest first. */
  readonly sCommands: string[];
}

/** All of it; `close()` ends it. */
export class Rig {
  readonly leaseMs: number;

  private constructor(
    readonly server: RedisServer,
    /** A client of the test's own, straight to the server. */
    readonly redis: Redis,
    readonly observation: Observation,
    readonly prefix: string,
    private readonly links: ReadonlyMap<string, Links>,
    private readonly settings: RigSettings,
  ) {
    this.leaseMs = (settings.coherence ?? COHERENCE).leaseMs;
  }

  /** Starts server, proxies and processes; resolves when all readers serve from their caches. */
  static async open(settings: RigSettings): Promise<Rig> {
    const server = await RedisServer.start();
    const closing: (() => Promise<unknown>)[] = [() => server.stop()];
    try {
      const prefix = uniquePrefix();
      const coherence = settings.coherence ?? COHERENCE;
      const links = new Map<string, Links>();
      const readers: Record<string, ReaderSettings> = {};
      for (const [name, weaken] of Object.entries(settings.readers)) {
        const c = await TcpProxy.start({ targetPort: server.port });
        closing.push(() => c.close());
        const sCommands: string[] = [];
        const onCommand = ([command = '']: string[]): unknown => sCommands.push(command);
        const s = await TcpProxy.start({ targetPort: server.port, onCommand });
        closing.push(() => s.close());
        links.set(name, { c, s, sCommands });
        const options = {
          redis: c.url,
          subscriber: settings.direct?.includes(name) === true ? server.url : s.url,
          keyPrefix: prefix,
          instanceId: name,
          coherence,
          // Long, so that it cannot hide what the protocol misses.
          cache: { maxAge: '10m' },
        } satisfies SessionModuleOptions;
        const pace = settings.paces?.[name];
        readers[name] = { options, weaken, ...(pace === undefined ? {} : { pace }) };
      }
      const redis = new Client(server.url, { maxRetriesPerRequest: null });
      redis.on('error', () => undefined);
      closing.push(async () => redis.disconnect());
      const observation = await Observation.start({
        leaseMs: coherence.leaseMs,
        writer: { redis: server.url, keyPrefix: prefix },
        readers,
        ...(settings.load === undefined ? {} : { load: settings.load }),
      });
      return new Rig(server, redis, observation, prefix, links, settings);
    } catch (error) {
      for (const close of closing.toReversed()) await close().catch(() => undefined);
      throw error;
    }
  }

  /** Names of readers whose S has no proxy. */
  get direct(): readonly string[] {
    return this.settings.direct ?? [];
  }

  /** A reader by name. */
  reader(name: string): Reader {
    return this.observation.reader(name);
  }

  get readers(): Reader[] {
    return [...this.observation.readers.values()];
  }

  link(name: string): Links {
    const links = this.links.get(name);
    if (links === undefined) throw new Error(`No reader ${name}`);
    return links;
  }

  /** Does the same to the links of all readers at once. */
  each(fault: (links: Links) => void): void {
    for (const links of this.links.values()) fault(links);
  }

  run(ms: number): Promise<void> {
    return this.observation.run(ms);
  }

  /** Kills the server and starts it empty on its port; tells the writer that its sessions are gone. */
  async restartEmpty({ downMs = 0 } = {}): Promise<void> {
    const began = now();
    await this.server.kill();
    await this.observation.allGone(began, now());
    if (downMs > 0) await this.run(downMs);
    await this.server.restart();
  }

  /**
   * Ends the load and judges it: readers without a weakness must have kept the bound, weakened ones must have been
   * caught. Prints a line for each under the name of the fault.
   */
  async judge(fault: string): Promise<Record<string, ReadReport>> {
    const reports = await this.observation.finish();
    for (const [name, report] of Object.entries(reports)) {
      const weakness = this.settings.readers[name] ?? 'none';
      const who = weakness === 'none' ? name : `${name}, without ${WITHOUT[weakness]}`;
      const after = this.reader(name).recoveries.map((ms) => ms.toFixed(0));
      const recovered = after.length === 0 ? '' : `; served again after ${after.join(', ')} ms`;
      process.stdout.write(`[${fault}] ${describeReport(who, this.leaseMs, report)}${recovered}\n`);
    }
    for (const [name, report] of Object.entries(reports)) {
      if (this.settings.readers[name] === 'none') expectCoherent(report, this.leaseMs);
      else expectCaught(report);
    }
    return reports;
  }

  /** Ends everything; rejects when a worker crashed, wrote something or does not end by itself. */
  async close(): Promise<void> {
    try {
      if (this.server.running) this.server.resume();
      await this.observation.close();
    } finally {
      this.redis.disconnect();
      for (const { c, s } of this.links.values()) await Promise.all([c.close(), s.close()]);
      await this.server.stop();
    }
  }
}

const WITHOUT: Record<Exclude<Weakness, 'none'>, string> = {
  epoch: 'epochs',
  lease: 'a lease',
  naive: 'epochs and lease',
};

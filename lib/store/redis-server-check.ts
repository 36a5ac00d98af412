import { Logger } from '@nestjs/common';
import type { Redis } from 'ioredis';
import { SessionOptionsError } from '../errors/caller.errors.js';
import { redirectionOf } from './redis-error.js';
import { indexOption, type RedisKeys } from './redis-keys.js';

/** Layout number of keys and records, written to `sk:layout` with the partition count. */
const LAYOUT = 1;

/** Looks at every server a connection gets to, before it is used. */
export class RedisServerCheck {
  readonly #logger = new Logger('SessionModule');
  #warnedOfEviction = false;

  constructor(
    private readonly keys: RedisKeys,
    private readonly keyPrefix: string,
  ) {}

  /** Runs on every new link: version and role of the server, the layout marker, and once the eviction policy. Resolves to its `run_id`. */
  async run(client: Redis): Promise<string | null> {
    const info = await client.info().catch(() => ''); // where an ACL forbids it, these checks are left out
    const version = /^redis_version:(\d+)\.(\S+)/m.exec(info);
    if (version !== null && Number(version[1]) < 7) {
      throw new SessionOptionsError(
        'redis',
        `leads to Redis ${version[1]}.${version[2]}; 7.0 or newer is needed (or Valkey). Upgrade the server.`,
      );
    }
    if (/^redis_mode:cluster/m.test(info) && !this.keys.inCluster) {
      throw new SessionOptionsError(
        'redis',
        "leads to one node of a Redis Cluster, which has some of the slots only. Write redis: { cluster: [{ host: '10.0.0.1', port: 6379 }] }.",
      );
    }
    // Not left to a refused write: until then, reads would be served from what may be an old copy.
    if (/^role:slave/m.test(info)) throw new Error('it is a replica, and only a master may be read from');
    await this.#checkLayout(client);
    const policy = /^maxmemory_policy:(\S+)/m.exec(info)?.[1];
    if (policy !== undefined && policy !== 'noeviction' && !this.#warnedOfEviction) {
      this.#warnedOfEviction = true;
      this.#logger.warn(
        `Redis has maxmemory-policy "${policy}" and may drop live sessions when its memory is full. Set it to "noeviction".`,
      );
    }
    return /^run_id:(\w+)/m.exec(info)?.[1] ?? null;
  }

  async #checkLayout(client: Redis): Promise<void> {
    const wanted = `${LAYOUT} ${this.keys.partitions} ${this.keys.kept}`;
    let found: string | null;
    try {
      found = await this.#marker(client);
    } catch (error) {
      if (this.keys.inCluster && redirectionOf(error) !== null) return; // for the master that owns its slot
      throw error;
    }
    if (found === null) {
      // Only where it is missing: a full server (OOM) still serves the sessions it has.
      await client.set(this.keys.layout, wanted, 'NX');
      found = await this.#marker(client);
    }
    if (found !== wanted) throw this.#misfit(found ?? '');
  }

  /** @throws {SessionOptionsError} where the key is no string */
  #marker(client: Redis): Promise<string | null> {
    return client.get(this.keys.layout).catch((error: unknown) => {
      throw error instanceof Error && error.message.startsWith('WRONGTYPE') ? this.#taken() : error;
    });
  }

  /** Processes that differ here would each find, count and end other sessions than the rest. */
  #misfit(marker: string): SessionOptionsError {
    const { partitions, kept } = this.keys;
    const [, layout, count, indexes = ''] = /^(\d+) (\d+) (.+)$/.exec(marker) ?? [];
    const index = indexOption(indexes);
    if (layout !== String(LAYOUT) || index === null) return this.#taken();
    const laidOut = `the sessions under the prefix "${this.keyPrefix}" were laid out with`;
    if (count !== String(partitions)) {
      return new SessionOptionsError(
        'partitions',
        `is ${partitions}, but ${laidOut} ${count}. Set partitions: ${count}, or choose another keyPrefix.`,
      );
    }
    return new SessionOptionsError(
      'index',
      `is ${indexOption(kept)}, but ${laidOut} ${index}. Set index: ${index}, or choose another keyPrefix.`,
    );
  }

  #taken(): SessionOptionsError {
    return new SessionOptionsError(
      'keyPrefix',
      `"${this.keyPrefix}" is in use by something else, or another layout of sessions: see the key ${this.keys.layout}. ` +
        'Choose another keyPrefix.',
    );
  }
}

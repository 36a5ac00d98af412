import type { RedisConnection } from './redis-connection.js';
import type { RedisKeys } from './redis-keys.js';
import type { RedisLinks } from './redis-links.js';

interface Waits {
  running: Promise<unknown> | undefined;
  next: Promise<Confirmation> | undefined;
}

interface Confirmation {
  readonly server: string | null;
  readonly replicas: number;
}

/**
 * Waits until replicas have what was written on other connections, by Redis `WAIT`. That command covers what its own
 * connection wrote and blocks it meanwhile, so it has connections of its own, on which a small key is written first:
 * replicas apply writes in order, and one that has this key has everything before it.
 *
 * Callers that come while one `WAIT` is under way on a server share the next.
 */
export class ReplicaBarrier {
  readonly #waits = new WeakMap<RedisConnection, Waits>();

  /**
   * @param replicas how many to wait for
   * @param waitMs for how long at most
   */
  constructor(
    readonly links: RedisLinks,
    private readonly keys: RedisKeys,
    private readonly replicas: number,
    private readonly waitMs: number,
  ) {}

  /**
   * Resolves to the number of replicas that have everything written on `server` so far; 0 and why when that cannot be
   * told.
   *
   * @param partition one that was written to
   * @param server run_id of the server that was written to; null when it is not known, or not one
   */
  async confirm(
    partition: number,
    server: string | null,
  ): Promise<{ readonly replicas: number; readonly cause?: unknown }> {
    const link = this.links.linkOf(partition);
    if (link === null) return { replicas: 0, cause: new Error('no master is known') };
    let waits = this.#waits.get(link);
    if (waits === undefined) this.#waits.set(link, (waits = { running: undefined, next: undefined }));
    waits.next ??= this.#begin(link, waits, this.keys.barrier(partition));
    try {
      const answer = await waits.next;
      if (server !== null && answer.server === server) return answer;
      return { replicas: 0, cause: new Error('another server is the master now, or INFO is forbidden') };
    } catch (cause) {
      return { replicas: 0, cause };
    }
  }

  async #begin(link: RedisConnection, waits: Waits, key: string): Promise<Confirmation> {
    await waits.running?.catch(() => undefined); // its own callers have been told
    const answer = this.#wait(link, key);
    waits.running = answer;
    waits.next = undefined;
    return answer;
  }

  async #wait(link: RedisConnection, key: string): Promise<Confirmation> {
    const { value, server } = await link.send('wait for replicas', true, async (client) => {
      const [, replicas] = await Promise.all([
        client.set(key, '', 'PX', 60_000),
        client.wait(this.replicas, this.waitMs),
      ]);
      return replicas;
    });
    return { server, replicas: value as number };
  }
}

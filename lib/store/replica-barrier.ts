import type { RedisConnection } from './redis-connection.js';

/**
 * Waits until replicas have what was written on other connections, by Redis `WAIT`. That command covers what its own
 * connection wrote and blocks it meanwhile, so it has a connection of its own, on which a small key is written first:
 * replicas apply writes in order, and one that has this key has everything before it.
 *
 * Callers that come while one `WAIT` is under way share the next.
 */
export class ReplicaBarrier {
  #running: Promise<unknown> | undefined;
  #next: Promise<{ readonly server: string | null; readonly replicas: number }> | undefined;

  /**
   * @param key written for each wait; expires by itself
   * @param replicas how many to wait for
   * @param waitMs for how long at most
   */
  constructor(
    readonly connection: RedisConnection,
    private readonly key: string,
    private readonly replicas: number,
    private readonly waitMs: number,
  ) {}

  /**
   * Resolves to the number of replicas that have everything written on `server` so far; 0 and why when that cannot be
   * told.
   *
   * @param server run_id of the server that was written to; null when it is not known, or not one
   */
  async confirm(server: string | null): Promise<{ readonly replicas: number; readonly cause?: unknown }> {
    this.#next ??= this.#begin();
    try {
      const answer = await this.#next;
      if (server !== null && answer.server === server) return answer;
      return { replicas: 0, cause: new Error('another server is the master now, or INFO is forbidden') };
    } catch (cause) {
      return { replicas: 0, cause };
    }
  }

  async #begin(): Promise<{ server: string | null; replicas: number }> {
    await this.#running?.catch(() => undefined); // its own callers have been told
    const answer = this.#wait();
    this.#running = answer;
    this.#next = undefined;
    return answer;
  }

  async #wait(): Promise<{ server: string | null; replicas: number }> {
    const { value, server } = await this.connection.send('wait for replicas', true, async (client) => {
      const [, replicas] = await Promise.all([
        client.set(this.key, '', 'PX', 60_000),
        client.wait(this.replicas, this.waitMs),
      ]);
      return replicas;
    });
    return { server, replicas: value as number };
  }
}

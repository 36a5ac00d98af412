import type { Cluster } from 'ioredis';
import { SessionOptionsError } from '../errors/caller.errors.js';
import type { ClusterDirectory } from './redis-client.js';
import { withoutArguments } from './redis-error.js';

/**
 * How soon the table of slots is asked for again, whoever thinks that it is out of date: after the first of these, doubled
 * up to the second while it stays the same, and not by all processes at the same moment, for each time ioredis makes a
 * connection. Milliseconds.
 */
const REFRESH_MS = { first: 50, most: 500 };
/** After so many refreshes in a row that no node answered, the nodes are looked for anew, from those the user named. */
const LOST_AFTER = 5;

/**
 * Which master owns which partition. All keys of a partition are in one slot.
 *
 * ioredis keeps the table; this class says when it is to be asked for again, and tells what has changed of it.
 */
export class ClusterTopology {
  readonly #listeners = new Set<() => void>();
  #started: Promise<void> | undefined;
  #directory: ClusterDirectory | undefined;
  #slots: readonly number[] = [];
  #owners: readonly (string | null)[];
  #timer: NodeJS.Timeout | undefined;
  #routine: NodeJS.Timeout | undefined;
  #isAsking = false;
  #askedAt = -Infinity;
  #pause = REFRESH_MS.first;
  #failures = 0;
  #lastProblem = 'no connection';
  #closed = false;

  /**
   * @param open makes the directory, not yet connected
   * @param keys a key of each partition
   */
  constructor(
    private readonly open: () => Promise<ClusterDirectory>,
    private readonly keys: readonly string[],
  ) {
    this.#owners = keys.map(() => null);
  }

  /**
   * Resolves when the table of slots is there; the first call begins to ask for it.
   *
   * @throws {SessionOptionsError} if a node says that it belongs to no Cluster
   */
  start(): Promise<void> {
    return (this.#started ??= this.#start());
  }

  /** Owner of each partition as `host:port`; null where none is known. */
  get owners(): readonly (string | null)[] {
    return this.#owners;
  }

  /** Why there is no table yet. */
  get lastProblem(): string {
    return this.#lastProblem;
  }

  get directory(): ClusterDirectory {
    if (this.#directory === undefined) throw new Error('the cluster has not been found yet');
    return this.#directory;
  }

  /** Told when owners have changed. */
  onChange(listener: () => void): void {
    this.#listeners.add(listener);
  }

  /** The table may be out of date. */
  refresh(): void {
    // Before there is a directory, its start brings the table.
    if (this.#closed || this.#directory === undefined || this.#timer !== undefined || this.#isAsking) return;
    const since = performance.now() - this.#askedAt;
    if (since > 2 * REFRESH_MS.most) this.#pause = REFRESH_MS.first;
    const wait = Math.max(this.#pause - since, 0) + Math.random() * REFRESH_MS.first;
    this.#timer = setTimeout(() => this.#ask(), wait).unref();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#routine);
    this.#directory?.cluster.disconnect();
  }

  async #start(): Promise<void> {
    const directory = await this.open();
    if (this.#closed) return directory.cluster.disconnect();
    this.#directory = directory;
    this.#slots = this.keys.map((key) => directory.slotOf(key));
    this.#refreshEvery(directory.refreshEveryMs);
    const { cluster } = directory;
    await new Promise<void>((resolve, reject) => {
      cluster.on('error', () => undefined); // 'node error' tells more
      cluster.on('node error', (error: unknown) => {
        this.#lastProblem = withoutArguments(error).message;
        if (!/cluster support disabled/.test(this.#lastProblem)) return;
        reject(
          new SessionOptionsError(
            'redis',
            'names a cluster, and the server is not in cluster mode. Pass its URL alone.',
          ),
        );
      });
      cluster.on('refresh', () => {
        this.#read(cluster);
        resolve();
      });
      cluster.connect().catch(() => undefined); // retried by its own strategy
    });
  }

  /** Not left to ioredis (6.0.0), which asks on for ever when it is disconnected while it asks. */
  #refreshEvery(ms: number): void {
    if (ms === 0) return;
    this.#routine = setTimeout(
      () => {
        this.refresh();
        this.#refreshEvery(ms);
      },
      ms * (0.75 + Math.random() / 2),
    ).unref();
  }

  #ask(): void {
    this.#timer = undefined;
    this.#askedAt = performance.now();
    this.#pause = Math.min(this.#pause * 2, REFRESH_MS.most);
    const { cluster } = this.directory;
    if (cluster.status !== 'ready') return; // it is connecting, which ends in a refresh
    this.#isAsking = true; // ioredis would call back for each question, though it asks one by one
    cluster.refreshSlotsCache((error) => {
      this.#isAsking = false;
      if (!error) this.#failures = 0;
      else if (++this.#failures % LOST_AFTER === 0 && !this.#closed) cluster.disconnect(true);
    });
  }

  #read(cluster: Cluster): void {
    // As a server alone does that never met another; ioredis leaves such a node out.
    if (this.#slots.some((slot) => cluster.slots[slot]?.length === 0))
      this.#lastProblem = 'a node does not tell its own address: set cluster-announce-ip there';
    const owners = this.#slots.map((slot) => cluster.slots[slot]?.[0] ?? null);
    if (owners.every((owner, partition) => owner === this.#owners[partition])) return;
    this.#owners = owners;
    this.#pause = REFRESH_MS.first; // more may follow
    for (const listener of this.#listeners) listener();
  }
}

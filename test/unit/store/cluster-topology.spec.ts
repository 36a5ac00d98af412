import { Cluster } from 'ioredis';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { ClusterTopology } from '../../../lib/store/cluster-topology.js';
import type { ClusterDirectory } from '../../../lib/store/redis-client.js';

/** Never connected: what a node would say is put into the table by the test. */
class Table extends Cluster {
  asked: number[] = [];
  answer: Error | undefined;
  lost = 0;
  constructor() {
    super([{ port: 1 }], { lazyConnect: true });
  }
  override connect(): Promise<void> {
    this.status = 'ready';
    return Promise.resolve();
  }
  override refreshSlotsCache(callback?: (error?: Error | null) => void): void {
    this.asked.push(performance.now());
    const { answer } = this;
    setTimeout(() => {
      if (answer === undefined) this.emit('refresh');
      callback?.(answer ?? null);
    }, 1);
  }
  override disconnect(): void {
    this.lost++;
  }
}

describe('ClusterTopology', () => {
  afterEach(() => void vi.useRealTimers());

  function directoryOf(cluster: Cluster): ClusterDirectory {
    return {
      cluster,
      refreshEveryMs: 0,
      slotOf: () => 0,
      connectTo: () => {
        throw new Error('not asked for here');
      },
    };
  }

  async function started(): Promise<{ table: Table; topology: ClusterTopology }> {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    const table = new Table();
    const topology = new ClusterTopology(async () => directoryOf(table), ['{0}']);
    const start = topology.start();
    await vi.advanceTimersByTimeAsync(0);
    table.slots[0] = ['a:1'];
    table.emit('refresh');
    await start;
    return { table, topology };
  }

  /** As a connection does that waits for its master: every 10 ms for so long. */
  async function wantIt(topology: ClusterTopology, ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 10) {
      topology.refresh();
      await vi.advanceTimersByTimeAsync(10);
    }
  }

  it('refresh() before the client has been loaded waits for the start, and throws nowhere', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    const topology = new ClusterTopology(() => new Promise(() => undefined), ['{0}']);
    void topology.start();
    topology.refresh();
    await expect(vi.advanceTimersByTimeAsync(1_000)).resolves.toBeDefined();
  });

  it('asks within 50 ms, and ever more seldom while nothing changes, though it is wanted all the time', async () => {
    const { table, topology } = await started();
    const begun = performance.now();
    await wantIt(topology, 10_000);
    expect(table.asked[0]! - begun).toBeLessThanOrEqual(50);
    expect(table.asked.length).toBeLessThanOrEqual(26); // 100 + 200 + 400 ms, then two a second
    expect(table.asked.length).toBeGreaterThanOrEqual(15);
  });

  it('asks soon again after a change, and after a while without need', async () => {
    const { table, topology } = await started();
    await wantIt(topology, 5_000);
    table.slots[0] = ['b:1'];
    await wantIt(topology, 1_200);
    const changed = table.asked.length;
    expect(topology.owners).toEqual(['b:1']);
    await wantIt(topology, 400);
    expect(table.asked.length).toBeGreaterThan(changed);
    await wantIt(topology, 5_000);
    await vi.advanceTimersByTimeAsync(3_000);
    const quiet = table.asked.length;
    await wantIt(topology, 300);
    expect(table.asked.length - quiet).toBeGreaterThanOrEqual(2);
  });

  it('not all processes ask at the same moment', async () => {
    const first = new Set<number>();
    for (let process = 0; process < 10; process++) {
      const { table, topology } = await started();
      const begun = performance.now();
      topology.refresh();
      await vi.advanceTimersByTimeAsync(100);
      first.add(Math.round(table.asked[0]! - begun));
    }
    expect(first.size).toBeGreaterThan(2);
  });

  it('looks for the nodes anew after five failures in a row', async () => {
    const { table, topology } = await started();
    table.answer = new Error('no node answers');
    await wantIt(topology, 3_000);
    expect(table.lost).toBe(1);
    topology.close();
  });
});

// Faults of the reading process (COHERENCE test 7): it is frozen, or something holds up its event loop, and the first
// reads after that come before any news can. Two readers go through the same faults: one with the full protocol, one
// without a lease, which must be caught: its link never closes, so it has no reason to doubt its copies.
import { afterEach, describe, expect, it } from 'vitest';
import { COHERENCE, Rig } from './support/rig.js';

const { leaseMs } = COHERENCE;

describe('the near cache while its process stands still', () => {
  let rig: Rig | undefined;
  afterEach(async () => {
    await rig?.close();
    rig = undefined;
  });

  it('SIGSTOP and SIGCONT of the reader: its first reads are not stale', async () => {
    rig = await Rig.open({ readers: { full: 'none', weak: 'lease' } });
    const { readers } = rig;
    const full = rig.reader('full');
    for (const ms of [leaseMs * 0.5, leaseMs * 1.5, leaseMs * 2]) {
      // The signal must meet a process that is reading, and goes on doing so before its event loop can turn.
      const spins = await Promise.all(readers.map((reader) => reader.spin(600)));
      for (const { worker } of readers) worker.pause();
      await rig.run(ms);
      for (const { worker } of readers) worker.resume();
      await Promise.all(spins.map(({ done }) => done));
      await full.recovered();
    }
    await rig.judge('reader stopped');
  });

  it('its event loop blocked for twice the lease: the reads that follow at once are not stale', async () => {
    rig = await Rig.open({ readers: { full: 'none', weak: 'lease' } });
    const { readers } = rig;
    const full = rig.reader('full');
    for (let round = 0; round < 2; round++) {
      await rig.run(500);
      const { lastHit } = await full.state();
      await Promise.all(readers.map((reader) => reader.block(leaseMs * 2)));
      await full.recovered();
      expect((await full.state()).lastHit).toBeGreaterThan(lastHit + leaseMs);
    }
    await rig.judge('event loop blocked');
  });
});

// Shown to fail when a proof is dated by its answer, when an older one replaces a newer, and when end() keeps it.
import { describe, expect, it } from 'vitest';
import { Lease } from '../../../lib/pubsub/lease.js';

describe('Lease', () => {
  it('holds at no time before the first proof, and has no age', () => {
    const lease = new Lease(2_000);
    for (const now of [-1, 0, 5_000, Number.MAX_SAFE_INTEGER]) {
      expect(lease.isLiveAt(now)).toBe(false);
      expect(lease.ageAt(now)).toBe(Infinity);
    }
  });

  it('prove() lets it hold for leaseMs from when the question was sent, and no millisecond more', () => {
    const lease = new Lease(2_000);
    lease.prove(10_000);
    expect(lease.isLiveAt(10_000)).toBe(true);
    // Cut to whole milliseconds, 11_999 may be just short of 12_000, and the question have been asked at 10_000.0.
    expect(lease.isLiveAt(11_999)).toBe(true);
    expect(lease.isLiveAt(12_000)).toBe(false);
    expect(lease.ageAt(10_750)).toBe(750);
  });

  it('prove() prolongs it from the newer question', () => {
    const lease = new Lease(2_000);
    lease.prove(10_000);
    lease.prove(10_500);
    expect(lease.isLiveAt(12_499)).toBe(true);
    expect(lease.isLiveAt(12_500)).toBe(false);
  });

  it('prove() by an older question that was answered late does not shorten it', () => {
    const lease = new Lease(2_000);
    lease.prove(10_500);
    lease.prove(10_000);
    expect(lease.ageAt(10_500)).toBe(0);
    expect(lease.isLiveAt(12_499)).toBe(true);
  });

  it('end() takes it away at once, until the next proof', () => {
    const lease = new Lease(2_000);
    lease.prove(10_000);
    lease.end();
    expect(lease.isLiveAt(10_000)).toBe(false);
    expect(lease.ageAt(10_000)).toBe(Infinity);
    lease.prove(10_001);
    expect(lease.isLiveAt(10_001)).toBe(true);
  });

  it('end() begins a new epoch, whether the one before was ever open or not', () => {
    const lease = new Lease(2_000);
    const first = lease.epoch;
    lease.end();
    const second = lease.epoch;
    expect(second).not.toBe(first);
    lease.prove(10_000);
    expect(lease.epoch).toBe(second);
    lease.end();
    expect(lease.epoch).not.toBe(second);
    expect([first.ended, second.ended, lease.epoch.ended]).toEqual([true, true, false]);
    expect(lease.ended).toBe(2);
  });

  it('an epoch is live until leaseMs after the newest proof, and never again once it has ended', () => {
    const lease = new Lease(2_000);
    const { epoch } = lease;
    expect(epoch.liveUntil).toBe(-Infinity);
    lease.prove(10_000);
    expect(epoch.liveUntil).toBe(12_000);
    lease.prove(10_500);
    expect(epoch.liveUntil).toBe(12_500);
    lease.end();
    expect(epoch.liveUntil).toBe(-Infinity);
    lease.prove(10_600);
    expect(epoch.liveUntil).toBe(-Infinity);
    expect(lease.epoch.liveUntil).toBe(12_600);
  });

  it('provenUntil is known of the open epoch, after it of the newest that was open, and of no other', () => {
    const lease = new Lease(2_000);
    const first = lease.epoch;
    expect(first.provenUntil).toBe(-Infinity);
    lease.prove(10_000);
    expect(first.provenUntil).toBe(12_000);
    lease.end();
    const second = lease.epoch;
    lease.end(); // one that never opened
    expect(first.provenUntil).toBe(12_000);
    expect(second.provenUntil).toBe(-Infinity);
    lease.prove(20_000);
    expect(first.provenUntil).toBe(-Infinity);
    expect(lease.epoch.provenUntil).toBe(22_000);
  });
});

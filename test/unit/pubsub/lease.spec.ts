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
    const { epoch } = lease;
    lease.end();
    expect(lease.epoch).toBe(epoch + 1);
    lease.prove(10_000);
    expect(lease.epoch).toBe(epoch + 1);
    lease.end();
    expect(lease.epoch).toBe(epoch + 2);
  });

  it('provenUntil() knows the open epoch, after it the newest that was open, and no other', () => {
    const lease = new Lease(2_000);
    expect(lease.provenUntil(lease.epoch)).toBe(-Infinity);
    const { epoch } = lease;
    lease.prove(10_000);
    expect(lease.provenUntil(epoch)).toBe(12_000);
    lease.end();
    lease.end(); // one that never opened
    expect(lease.provenUntil(epoch)).toBe(12_000);
    expect(lease.provenUntil(epoch + 1)).toBe(-Infinity);
    lease.prove(20_000);
    expect(lease.provenUntil(epoch)).toBe(-Infinity);
    expect(lease.provenUntil(lease.epoch)).toBe(22_000);
  });
});

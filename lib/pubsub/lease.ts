import type { CopyLease } from '../core/session-cache.interface.js';

/**
 * The right to answer from the near cache without asking, for `leaseMs` after each proof that nothing was missed, in an
 * **epoch**: a stretch of time in which nothing can have been missed.
 *
 * A proof is dated when its question was sent, not when it was answered: all that can be said of the answer is that
 * the server gave it later than that. Times are whole monotonic milliseconds of this process, so that a difference of
 * `leaseMs` may be nearly one more and is over; no clocks of different machines are compared.
 */
export class Lease implements CopyLease {
  #proof = -Infinity;
  #epoch = 0;
  /** The newest epoch that was open and has ended. */
  #past = { epoch: -1, until: -Infinity };

  constructor(readonly leaseMs: number) {}

  get epoch(): number {
    return this.#epoch;
  }

  /** There has been a proof in this epoch, maybe too old a one. */
  get isOpen(): boolean {
    return this.#proof !== -Infinity;
  }

  /** @param askedAt when the question was sent whose answer has just come in */
  prove(askedAt: number): void {
    if (askedAt > this.#proof) this.#proof = askedAt;
  }

  /** Something may have been missed: what was kept is void. */
  end(): void {
    if (this.isOpen) this.#past = { epoch: this.#epoch, until: this.#proof + this.leaseMs };
    this.#epoch++;
    this.#proof = -Infinity;
  }

  isLiveAt(now: number): boolean {
    return now - this.#proof < this.leaseMs;
  }

  provenUntil(epoch: number): number {
    if (this.isOpen) return epoch === this.#epoch ? this.#proof + this.leaseMs : -Infinity;
    return epoch === this.#past.epoch ? this.#past.until : -Infinity;
  }

  /** Milliseconds since the newest proof; Infinity when there is none. */
  ageAt(now: number): number {
    return now - this.#proof;
  }
}

import type { CopyEpoch } from '../core/session-cache.interface.js';

/** Changed by its {@link Lease} alone. */
class Epoch implements CopyEpoch {
  liveUntil = -Infinity;
  provenUntil = -Infinity;
  ended = false;
}

/** One without a lease, which lasts as long as the process. */
export function unending(live: boolean): CopyEpoch {
  const epoch = new Epoch();
  if (live) epoch.liveUntil = epoch.provenUntil = Infinity;
  return epoch;
}

/**
 * The right to answer from the near cache without asking, for `leaseMs` after each proof that nothing was missed, in an
 * **epoch**: a stretch of time in which nothing can have been missed.
 *
 * A proof is dated when its question was sent, not when it was answered: all that can be said of the answer is that
 * the server gave it later than that. Times are whole monotonic milliseconds of this process, so that a difference of
 * `leaseMs` may be nearly one more and is over; no clocks of different machines are compared.
 *
 * Copies look at their epoch, not at the lease: one number tells them both that it has not ended and that it is proved.
 */
export class Lease {
  #proof = -Infinity;
  #epoch = new Epoch();
  /** The newest epoch that was open and has ended. */
  #past: Epoch | undefined;
  #ended = 0;

  constructor(readonly leaseMs: number) {}

  /** The current one. */
  get epoch(): CopyEpoch {
    return this.#epoch;
  }

  /** How many epochs have ended. */
  get ended(): number {
    return this.#ended;
  }

  /** There has been a proof in this epoch, maybe too old a one. */
  get isOpen(): boolean {
    return this.#proof !== -Infinity;
  }

  /** @param askedAt when the question was sent whose answer has just come in */
  prove(askedAt: number): void {
    if (askedAt <= this.#proof) return;
    this.#proof = askedAt;
    this.#epoch.liveUntil = this.#epoch.provenUntil = askedAt + this.leaseMs;
    if (this.#past !== undefined) this.#past.provenUntil = -Infinity;
    this.#past = undefined;
  }

  /** Something may have been missed: what was kept is void. */
  end(): void {
    if (this.isOpen) this.#past = this.#epoch;
    this.#epoch.liveUntil = -Infinity;
    this.#epoch.ended = true;
    this.#epoch = new Epoch();
    this.#ended++;
    this.#proof = -Infinity;
  }

  isLiveAt(now: number): boolean {
    return now < this.#epoch.liveUntil;
  }

  /** Milliseconds since the newest proof; Infinity when there is none. */
  ageAt(now: number): number {
    return now - this.#proof;
  }
}

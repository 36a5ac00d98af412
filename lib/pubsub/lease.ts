/**
 * The right to answer from the near cache without asking, for `leaseMs` after each proof that nothing was missed.
 *
 * A proof is dated when its question was sent, not when it was answered: all that can be said of the answer is that
 * the server gave it later than that. Times are monotonic milliseconds of this process; no clocks of different
 * machines are compared.
 */
export class Lease {
  #proof = -Infinity;

  constructor(readonly leaseMs: number) {}

  /** @param askedAt when the question was sent whose answer has just come in */
  prove(askedAt: number): void {
    if (askedAt > this.#proof) this.#proof = askedAt;
  }

  end(): void {
    this.#proof = -Infinity;
  }

  /** Monotonic milliseconds until which it holds without another proof; -Infinity when there is none. */
  get until(): number {
    return this.#proof + this.leaseMs;
  }

  holdsAt(now: number): boolean {
    return now - this.#proof <= this.leaseMs;
  }

  /** Milliseconds since the newest proof; Infinity when there is none. */
  ageAt(now: number): number {
    return now - this.#proof;
  }
}

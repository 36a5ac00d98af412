/** Time as one process sees it. Injected, so that tests can move it. */
export interface Clock {
  /** Milliseconds that never jump, for deadlines inside this process. */
  monotonic(): number;
  /** Epoch milliseconds, for the memory store, whose clock is this process's. */
  wall(): number;
}

export const SYSTEM_CLOCK: Clock = {
  monotonic: () => performance.now(),
  wall: () => Date.now(),
};

/**
 * What the store's clock shows now, from the last answer that told it. Good to a network delay, and independent of
 * this machine's wall clock; used for display and for deciding when a touch is due, never for refusing a session.
 */
export class StoreClock {
  #offset: number;

  constructor(private readonly clock: Clock) {
    this.#offset = clock.wall() - clock.monotonic();
  }

  /** @param storeNow epoch milliseconds in an answer that has just come in */
  observe(storeNow: number): void {
    this.#offset = storeNow - this.clock.monotonic();
  }

  now(): number {
    return Math.round(this.clock.monotonic() + this.#offset);
  }
}

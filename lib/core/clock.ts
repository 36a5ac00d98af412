/** Time as one process sees it. Injected, so that tests can move it. */
export interface Clock {
  /**
   * Milliseconds for deadlines inside this process. Never goes back; jumps ahead with the wall clock, because the
   * system's monotonic clock stands still while a machine is suspended.
   */
  monotonic(): number;
  /** Epoch milliseconds, for the memory store, whose clock is this process's. */
  wall(): number;
}

/** Differences below this are the wall clock's resolution, not a jump. Milliseconds. */
const JITTER_MS = 5;

/**
 * A clock that is never behind either of two others: it counts with `monotonic`, and leaps whenever `wall` gets ahead
 * of that. So a deadline passes at the latest when either clock says so (COHERENCE rule 5), and costs one number.
 */
export function fasterOf(monotonic: () => number, wall: () => number): () => number {
  let offset = wall() - monotonic();
  let leapt = 0;
  return () => {
    const now = monotonic();
    const drift = wall() - now - offset;
    if (drift > JITTER_MS || drift < -JITTER_MS) {
      offset += drift;
      if (drift > 0) leapt += drift;
    }
    return now + leapt;
  };
}

const monotonic = fasterOf(
  () => Number(process.hrtime.bigint()) / 1e6, // what performance.now() reads, at half its price
  () => Date.now(),
);

export const SYSTEM_CLOCK: Clock = { monotonic, wall: () => Date.now() };

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

  /** @param monotonic what the clock has just shown */
  now(monotonic = this.clock.monotonic()): number {
    return Math.round(monotonic + this.#offset);
  }
}

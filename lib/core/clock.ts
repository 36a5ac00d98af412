/** Time as one process sees it. Injected, so that tests can move it. */
export interface Clock {
  /**
   * Milliseconds for deadlines inside this process. Never goes back; jumps ahead with the wall clock, because the
   * system's monotonic clock stands still while a machine is suspended.
   */
  monotonic(): number;
  /** Milliseconds that nobody's wall clock moves: they neither go back nor leap, and stand still with a suspended machine. */
  steady(): number;
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

const steady = () => Number(process.hrtime.bigint()) / 1e6; // what performance.now() reads, at half its price
const monotonic = fasterOf(steady, () => Date.now());

export const SYSTEM_CLOCK: Clock = { monotonic, steady, wall: () => Date.now() };

/**
 * What the store's clock shows now, from the last answer that told it. Good to a network delay, and independent of what
 * this machine's wall clock shows; used for display and for deciding what is due, never for refusing a session.
 *
 * Between two answers a machine may have been suspended, or its wall clock set: they look alike. So there are two
 * estimates, for each use the one whose error does no harm.
 */
export class StoreClock {
  #offset: number;
  #latestOffset: number;

  constructor(private readonly clock: Clock) {
    this.#offset = clock.wall() - clock.steady();
    this.#latestOffset = clock.wall() - clock.monotonic();
  }

  /** @param storeNow epoch milliseconds in an answer that has just come in */
  observe(storeNow: number): void {
    this.#offset = storeNow - this.clock.steady();
    this.#latestOffset = storeNow - this.clock.monotonic();
  }

  /**
   * For what is shown, handed out or stored: a wall clock that is set does not end a cookie or date a login in the future.
   * Behind by the length of a suspension until the next answer.
   */
  now(): number {
    return Math.round(this.clock.steady() + this.#offset);
  }

  /**
   * For what becomes due: a touch, a rotation, another proof of who the user is. Never behind; ahead, until the next
   * answer, by what the wall clock was set forward.
   *
   * @param monotonic what the clock has just shown
   */
  latest(monotonic = this.clock.monotonic()): number {
    return Math.round(monotonic + this.#latestOffset);
  }
}

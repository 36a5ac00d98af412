/** Time as one process sees it. Injected, so that tests can move it. */
export interface Clock {
  /**
   * Whole milliseconds for deadlines inside this process. Never goes back; jumps ahead with the wall clock, because the
   * system's monotonic clock stands still while a machine is suspended.
   */
  monotonic(): number;
  /**
   * The same from one reading of the system's clocks instead of two, for the hot path; see {@link fasterOf} for what it
   * may miss until the next `monotonic()`.
   */
  glance(): number;
  /** Milliseconds that nobody's wall clock moves: they neither go back nor leap, and stand still with a suspended machine. */
  steady(): number;
  /** Epoch milliseconds, for the memory store, whose clock is this process's. */
  wall(): number;
}

/** So far `wall` may get ahead without that being a jump: whole milliseconds, and the time between two readings. */
const JITTER_MS = 5;
/** So far it may fall behind: its whole milliseconds, and theirs. */
const LAG_MS = 2;

/** A glance reads the other clock too when so much has passed since that was read, or after so many glances. */
const COMPARE_MS = 20;
const GLANCES = 256;

/** A clock made of two others; see {@link fasterOf}. */
interface FasterClock {
  readonly read: () => number;
  readonly glance: () => number;
}

/**
 * A clock that is behind neither of two others by more than their resolution, in whole milliseconds: so a deadline
 * passes when either says so (COHERENCE rule 5).
 *
 * It shows what `wall` shows, moved by as much as makes up for the times when that was set back or stood still. `read`
 * looks at both. A reading costs as much as the lookup it is for, so `glance` looks at `wall` alone: where that shows
 * less than a moment ago, it was set back, and `monotonic` tells by how much. What a glance may miss until the next
 * `read` is a wall clock that stands still, as mocks of it do, and one that was set back by just as much (to 20 ms) as
 * no clock had been read for. The heartbeat of the near cache's link reads, and so does every fill.
 */
export function fasterOf(monotonic: () => number, wall: () => number): FasterClock {
  let shown = Math.floor(monotonic());
  let shift = shown - wall();
  let compareAt = -Infinity;
  let glances = GLANCES;
  /** What `monotonic` is behind this clock by: the leaps of `wall`. */
  let leapt = 0;

  const compare = (at: number): number => {
    compareAt = at + COMPARE_MS;
    glances = GLANCES;
    const byWall = at + shift;
    const byMonotonic = monotonic() + leapt;
    const fellBack = byWall < shown || byWall < byMonotonic - LAG_MS;
    const now = fellBack ? Math.max(shown, Math.floor(byMonotonic)) : byWall;
    shift = now - at;
    if (now - byMonotonic > (fellBack ? 0 : JITTER_MS)) leapt += now - byMonotonic;
    return now;
  };
  return {
    read: () => unboxed((shown = compare(wall()))),
    glance: () => {
      const at = wall();
      const now = at + shift;
      return unboxed((shown = now < shown || at >= compareAt || --glances < 0 ? compare(at) : now));
    },
  };
}

/**
 * The same number, in the form that V8 keeps in an object without memory of its own (16 bytes), where it has that:
 * whole ones below 2^31, some 24 days in milliseconds.
 */
export function unboxed(value: number): number {
  const small = value | 0;
  return small === value ? small : value;
}

const steady = () => Number(process.hrtime.bigint()) / 1e6; // what performance.now() reads, at half its price
const started = steady();
/** Counted from the start of the process, so that times can be {@link unboxed}. */
const faster = fasterOf(
  () => steady() - started,
  () => Date.now(),
);

export const SYSTEM_CLOCK: Clock = {
  monotonic: faster.read,
  glance: faster.glance,
  steady,
  wall: () => Date.now(),
};

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

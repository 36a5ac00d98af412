// Time that moves only when a test says so.
import type { Clock } from '../../lib/core/clock.js';

/** All clocks of a process; they start at different points, as real ones do. */
export class ManualClock implements Clock {
  #steady = 1_000;
  #monotonic = 5_000;
  #wall: number;

  /** @param startsAt epoch milliseconds */
  constructor(startsAt = Date.UTC(2030, 0, 1)) {
    this.#wall = startsAt;
  }

  monotonic(): number {
    return this.#monotonic;
  }

  glance(): number {
    return this.monotonic();
  }

  steady(): number {
    return this.#steady;
  }

  wall(): number {
    return this.#wall;
  }

  /** Time goes by. */
  advance(ms: number): void {
    this.#steady += ms;
    this.#monotonic += ms;
    this.#wall += ms;
  }

  /**
   * The wall clock gets ahead of the steady one (or behind): somebody has set it, or the machine was suspended, which is
   * the same to a process.
   */
  jump(ms: number): void {
    this.#wall += ms;
    this.#monotonic += Math.max(0, ms);
  }
}

// Time that moves only when a test says so.
import type { Clock } from '../../lib/core/clock.js';

/** Both clocks of a process at once; they start at different points, as real ones do. */
export class ManualClock implements Clock {
  #passed = 0;

  /** @param startsAt epoch milliseconds */
  constructor(private readonly startsAt = Date.UTC(2030, 0, 1)) {}

  monotonic(): number {
    return 5_000 + this.#passed;
  }

  wall(): number {
    return this.startsAt + this.#passed;
  }

  advance(ms: number): void {
    this.#passed += ms;
  }
}

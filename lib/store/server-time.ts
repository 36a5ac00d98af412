import { SYSTEM_CLOCK, type Clock } from '../core/clock.js';

/**
 * So long what the server told of its clock is good for. In it two machines' clocks part by 1 ms where ntpd corrects them
 * (500 ppm each), and by 83 ms at chrony's most (`maxslewrate`).
 */
const KEEP_MS = 1_000;
/** Two clocks of this process that part by more than this meanwhile: it was suspended, or one of them was set. */
const APART_MS = 10;
/** Whole milliseconds of the server's clock and of ours are cut off, and the two may part. */
const CUT_MS = 2;

/**
 * The clock of the server at the other end of one link: asked about once a second however much is read. Asked with each, it
 * cost a read that was alone 7 % of its time (before and after in one run, Redis on the same machine).
 */
export class ServerTime {
  #told: number | undefined;
  #steadyBefore = 0;
  #monotonicBefore = 0;
  #asking: Promise<number> | undefined;

  /** @param read what the server's clock shows, epoch milliseconds */
  constructor(
    private readonly read: () => Promise<number>,
    private readonly clock: Clock = SYSTEM_CLOCK,
  ) {}

  /**
   * The latest that the server's clock may show, epoch milliseconds: what it told, and the time since it was asked, which
   * is more than the time since it answered. So what is counted from here ends too early rather than too late. Undefined
   * where it must be asked again. A server's clock that is set is noticed a second later.
   */
  latest(): number | undefined {
    if (this.#told === undefined) return undefined;
    const steady = this.clock.steady() - this.#steadyBefore;
    const monotonic = this.clock.monotonic() - this.#monotonicBefore;
    if (steady > KEEP_MS || Math.abs(monotonic - steady) > APART_MS) return undefined;
    return Math.ceil(this.#told + Math.max(steady, monotonic)) + CUT_MS;
  }

  /** Asks the server; those who ask before a turn of the event loop has ended share the question. */
  ask(): Promise<number> {
    if (this.#asking !== undefined) return this.#asking;
    process.nextTick(() => (this.#asking = undefined));
    return (this.#asking = this.#ask());
  }

  async #ask(): Promise<number> {
    const steady = this.clock.steady();
    const monotonic = this.clock.monotonic();
    const told = await this.read();
    this.#told = told;
    this.#steadyBefore = steady;
    this.#monotonicBefore = monotonic;
    return told;
  }
}

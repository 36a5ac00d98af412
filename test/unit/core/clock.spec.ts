// Shown to fail when leaps of the wall clock are ignored, when steps back are not followed, and when jitter is summed up.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { fasterOf, StoreClock, SYSTEM_CLOCK, unboxed } from '../../../lib/core/clock.js';
import { ManualClock } from '../../support/manual-clock.js';

/** A machine's two clocks; the test moves each by itself. */
function machine(way: 'read' | 'glance' = 'glance') {
  const at = { monotonic: 1_000, wall: Date.UTC(2030, 0, 1) };
  const faster = fasterOf(
    () => at.monotonic,
    () => at.wall,
  );
  return {
    clock: faster[way],
    read: faster.read,
    /** Both clocks go on. */
    run: (ms: number) => {
      at.monotonic += ms;
      at.wall += ms;
    },
    /** The machine sleeps: its monotonic clock stands still. */
    suspend: (ms: number) => void (at.wall += ms),
    /** Somebody sets the wall clock. */
    step: (ms: number) => void (at.wall += ms),
  };
}

describe.each(['read', 'glance'] as const)('fasterOf: %s()', (way) => {
  it('counts with the monotonic clock while both run', () => {
    const { clock, run } = machine(way);
    expect(clock()).toBe(1_000);
    run(250);
    expect(clock()).toBe(1_250);
    run(86_400_000);
    expect(clock()).toBe(86_401_250);
  });

  it('leaps by the time the machine was suspended, once', () => {
    const { clock, run, suspend } = machine(way);
    const before = clock();
    run(10);
    suspend(30_000);
    expect(clock() - before).toBe(30_010);
    expect(clock() - before).toBe(30_010);
    run(5);
    expect(clock() - before).toBe(30_015);
  });

  it('adds up several suspensions, also when it is asked only after the last', () => {
    const { clock, run, suspend } = machine(way);
    const before = clock();
    for (let i = 0; i < 3; i++) {
      suspend(2_000);
      run(1);
    }
    expect(clock() - before).toBe(6_003);
    suspend(1_000);
    expect(clock() - before).toBe(7_003);
  });

  it('goes on with the monotonic clock when the wall clock is set back', () => {
    const { clock, run, step } = machine(way);
    const before = clock();
    step(-3_600_000);
    expect(clock()).toBe(before);
    run(100);
    expect(clock()).toBe(before + 100);
  });

  it('sees a suspension after the wall clock was set back, from where it stands then', () => {
    const { clock, run, step, suspend } = machine(way);
    const before = clock();
    step(-3_600_000);
    clock();
    run(100);
    suspend(5_000);
    expect(clock() - before).toBe(5_100);
  });

  it('does not go back when a wall clock that was ahead is set right again', () => {
    const { clock, run, step } = machine(way);
    const before = clock();
    step(60_000);
    expect(clock() - before).toBe(60_000);
    step(-60_000);
    expect(clock() - before).toBe(60_000);
    run(7);
    expect(clock() - before).toBe(60_007);
  });

  it('a wall clock that trembles by 1 ms adds nothing in 10,000 looks', () => {
    const { clock, run, step } = machine(way);
    const before = clock();
    for (let i = 0; i < 10_000; i++) {
      run(1);
      step(i % 2 === 0 ? 1 : -1);
      clock();
    }
    expect(clock() - before).toBe(10_000);
  });

  it('a wall clock cut to whole milliseconds adds nothing to a monotonic one with fractions', () => {
    let monotonic = 0.3;
    const clock = fasterOf(
      () => monotonic,
      () => Math.floor(1_000_000.9 + monotonic),
    )[way];
    const before = clock();
    for (let i = 0; i < 10_000; i++) {
      monotonic += 0.37;
      clock();
    }
    expect(clock() - before).toBeCloseTo(3_700, 3);
  });

  it('never goes back, and is behind neither clock by more than their resolution (property)', () => {
    const move = fc.oneof(
      fc.record({ kind: fc.constant('run' as const), ms: fc.nat(100_000) }),
      fc.record({ kind: fc.constant('suspend' as const), ms: fc.nat(10_000_000) }),
      fc.record({
        kind: fc.constant('step' as const),
        ms: fc.integer({ min: -10_000_000, max: 10_000_000 }),
      }),
      fc.record({ kind: fc.constant('step' as const), ms: fc.integer({ min: -2, max: 2 }) }),
    );
    fc.assert(
      fc.property(fc.array(move, { maxLength: 60 }), (moves) => {
        const { clock, run, suspend, step } = machine(way);
        const apply = { run, suspend, step };
        let last = clock();
        for (const { kind, ms } of moves) {
          apply[kind](ms);
          const now = clock();
          expect(now).toBeGreaterThanOrEqual(last);
          // At least what each of the two clocks passed; 5 ms are taken for resolution, before and after.
          if (kind !== 'step' || ms > 0) expect(now - last).toBeGreaterThanOrEqual(ms - 10);
          if (kind === 'run') expect(now - last).toBeLessThanOrEqual(ms + 10);
          last = now;
        }
      }),
      { numRuns: 500 },
    );
  });

  it('the clock of the system runs, and not away from the wall clock', async () => {
    const began = { monotonic: SYSTEM_CLOCK.monotonic(), wall: SYSTEM_CLOCK.wall() };
    await new Promise((resolve) => setTimeout(resolve, 30)); // time itself is what is looked at
    const passed = SYSTEM_CLOCK.monotonic() - began.monotonic;
    expect(passed).toBeGreaterThan(25);
    expect(Math.abs(passed - (SYSTEM_CLOCK.wall() - began.wall))).toBeLessThan(15);
  });
});

describe('fasterOf: glance()', () => {
  it('reads the monotonic clock only when 20 ms have passed, or the wall clock has gone back', () => {
    const at = { monotonic: 1_000, wall: 1_000_000 };
    let looks = 0;
    const { glance: clock } = fasterOf(
      () => (looks++, at.monotonic),
      () => at.wall,
    );
    clock();
    looks = 0;
    for (let ms = 0; ms < 19; ms++) {
      at.monotonic++;
      at.wall++;
      clock();
    }
    expect(looks).toBe(0);
    at.monotonic++;
    at.wall++;
    clock();
    expect(looks).toBe(1);
    at.wall--;
    clock();
    expect(looks).toBe(2);
  });

  it('misses a step back by just what no clock had been read for, for 20 ms at most', () => {
    const { clock, run, step } = machine('glance');
    const before = clock();
    run(500);
    step(-495);
    expect(clock() - before).toBe(5); // the limit of what one reading can tell
    run(15);
    expect(clock() - before).toBe(515);
  });

  it('misses that no longer than until the next read()', () => {
    const { clock, read, run, step } = machine('glance');
    const before = clock();
    run(500);
    step(-495);
    expect(clock() - before).toBe(5);
    expect(read() - before).toBe(500);
    expect(clock() - before).toBe(500);
  });

  it('runs on with the monotonic clock where the wall clock stands still, a few glances later or by a read()', () => {
    const at = { monotonic: 1_000, wall: 1_000_000 };
    const { read, glance } = fasterOf(
      () => at.monotonic,
      () => at.wall,
    );
    at.wall += 60_000; // and after it was set forward
    const before = glance();
    at.monotonic += 3_000;
    expect(read() - before).toBe(3_000);
    at.monotonic += 3_000;
    let glances = 0;
    while (glance() - before < 6_000 && glances < 1_000) glances++;
    expect(glances).toBeLessThan(260);
  });
});

describe('StoreClock', () => {
  it('shows this process’s time until an answer told the store’s, then that one, going on from there', () => {
    const clock = new ManualClock();
    const storeClock = new StoreClock(clock);
    clock.advance(500);
    expect([storeClock.now(), storeClock.latest()]).toEqual([clock.wall(), clock.wall()]);
    storeClock.observe(clock.wall() - 3_600_000);
    clock.advance(1_000);
    expect([storeClock.now(), storeClock.latest()]).toEqual([
      clock.wall() - 3_600_000,
      clock.wall() - 3_600_000,
    ]);
  });

  it('a wall clock that gets ahead moves latest() only, until the next answer; one that is set back moves neither', () => {
    const clock = new ManualClock();
    const storeClock = new StoreClock(clock);
    storeClock.observe(1_000_000);
    clock.jump(60_000);
    expect([storeClock.now(), storeClock.latest()]).toEqual([1_000_000, 1_060_000]);
    storeClock.observe(1_000_010);
    expect([storeClock.now(), storeClock.latest()]).toEqual([1_000_010, 1_000_010]);
    clock.jump(-60_000);
    clock.advance(5);
    expect([storeClock.now(), storeClock.latest()]).toEqual([1_000_015, 1_000_015]);
  });
});

it('unboxed() gives back the same number', () => {
  const numbers = [
    0,
    1,
    -1,
    1.5,
    2 ** 31 - 1,
    2 ** 31,
    2 ** 32,
    -(2 ** 31) - 1,
    1.79e12,
    Infinity,
    -Infinity,
  ];
  expect(numbers.map(unboxed)).toEqual(numbers);
  expect(unboxed(Number.NaN)).toBeNaN();
});

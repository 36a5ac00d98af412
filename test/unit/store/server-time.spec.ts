// Shown to fail when the time is counted from the answer instead of the question, when the two clocks are not compared,
// when it is kept for ever, and when every caller asks for itself.
import fc from 'fast-check';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { ServerTime } from '../../../lib/store/server-time.js';

/** A server and this process, whose clocks all run on by the same time; the test sets each of ours by itself. */
function machines() {
  const at = { server: Date.UTC(2030, 0, 1), steady: 5_000, leapt: 0 };
  let reads = 0;
  let fails = false;
  /** How long the question is under way, and the answer. */
  const delay = { there: 0, back: 0 };
  const run = (ms: number): void => {
    at.server += ms;
    at.steady += ms;
  };
  const time = new ServerTime(
    async () => {
      reads++;
      if (fails) throw new Error('the link is down');
      run(delay.there);
      const shown = Math.floor(at.server);
      await Promise.resolve();
      run(delay.back);
      return shown;
    },
    {
      steady: () => at.steady,
      monotonic: () => Math.floor(at.steady + at.leapt),
      glance: () => Math.floor(at.steady + at.leapt),
      wall: () => at.steady + at.leapt,
    },
  );
  return {
    time,
    run,
    delay,
    fail: () => (fails = true),
    leap: (ms: number) => (at.leapt += ms),
    suspend: (ms: number) => {
      at.server += ms;
      at.leapt += ms;
    },
    server: () => at.server,
    reads: () => reads,
  };
}

describe('ServerTime', () => {
  it('latest() is unknown before the server was asked, and where it could not answer', async () => {
    const { time, fail } = machines();
    expect(time.latest()).toBeUndefined();
    fail();
    await expect(time.ask()).rejects.toThrow('the link is down');
    expect(time.latest()).toBeUndefined();
  });

  it('latest() is never behind the server, and ahead of it by no more than the way of the question and 4 ms', async () => {
    const delays = fc.double({ min: 0, max: 300, noNaN: true });
    await fc.assert(
      fc.asyncProperty(
        delays,
        delays,
        delays,
        fc.double({ min: 0, max: 999, noNaN: true }),
        async (...ms) => {
          const { time, run, delay, server } = machines();
          const [offset, there, back, since] = ms;
          run(offset); // so that no clock shows whole milliseconds
          Object.assign(delay, { there, back });
          await time.ask();
          run(since);
          const latest = time.latest();
          if (back + there + since > 1_000) return;
          expect(latest).toBeGreaterThanOrEqual(server());
          expect(latest).toBeLessThanOrEqual(server() + there + 4);
        },
      ),
    );
  });

  it('latest() is unknown a second after the question', async () => {
    const { time, run } = machines();
    await time.ask();
    run(1_000);
    expect(time.latest()).toBeDefined();
    run(1);
    expect(time.latest()).toBeUndefined();
    await nextTurn();
    await time.ask();
    expect(time.latest()).toBeDefined();
  });

  it.each([
    ['this machine was suspended for 20 ms', 20],
    ['this machine was suspended for an hour', 3_600_000],
  ])('latest() is unknown once %s', async (_what, ms) => {
    const { time, suspend } = machines();
    await time.ask();
    suspend(ms);
    expect(time.latest()).toBeUndefined();
  });

  it('latest() is unknown once the wall clock was set forward: no session ends by that', async () => {
    const { time, leap, server } = machines();
    await time.ask();
    leap(3_600_000);
    expect(time.latest()).toBeUndefined();
    await nextTurn();
    expect(await time.ask()).toBe(server());
    expect(time.latest()).toBeLessThanOrEqual(server() + 4);
  });

  it('who asks in one turn of the event loop shares one question; in the next it is another', async () => {
    const { time, reads } = machines();
    await Promise.all([time.ask(), time.ask(), time.ask()]);
    expect(reads()).toBe(1);
    await nextTurn();
    await time.ask();
    expect(reads()).toBe(2);
  });
});

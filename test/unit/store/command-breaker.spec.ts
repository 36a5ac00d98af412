// Three silences in a row open it; who asks, when, and what closes it.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { CommandBreaker } from '../../../lib/store/command-breaker.js';

/** Longer than the longest pause between two questions, and the first. */
const A_WHILE = 2_000;
/** How long an answer may take. */
const ANSWER_MS = 3_000;

describe('CommandBreaker', () => {
  let asked: { answer: () => void; fail: () => void }[];
  let changes: boolean[];
  let breaker: CommandBreaker;

  beforeEach(() => {
    vi.useFakeTimers();
    asked = [];
    changes = [];
    breaker = new CommandBreaker(
      () =>
        new Promise((resolve, reject) =>
          asked.push({ answer: resolve, fail: () => reject(new Error('no link')) }),
        ),
      ANSWER_MS,
      (isOpen) => changes.push(isOpen),
    );
  });
  afterEach(() => {
    breaker.close();
    vi.useRealTimers();
  });

  async function silence(times: number): Promise<void> {
    for (let count = 0; count < times; count++) breaker.onSilence();
    await vi.advanceTimersByTimeAsync(0);
  }

  it('one or two commands without an answer do not open it; the third in a row does', async () => {
    await silence(2);
    expect(breaker.isOpen).toBe(false);
    await silence(1);
    expect(breaker.isOpen).toBe(true);
    expect(changes).toEqual([true]);
  });

  it('an answer in between begins the count anew', async () => {
    await silence(2);
    expect(breaker.isDoubtful).toBe(true);
    breaker.onAnswer();
    await silence(2);
    expect(breaker.isOpen).toBe(false);
  });

  it('open: it asks by itself, and closes with the answer', async () => {
    await silence(3);
    expect(asked).toHaveLength(0);
    await vi.advanceTimersByTimeAsync(A_WHILE);
    expect(asked).toHaveLength(1); // one question is enough as long as it may be answered
    expect(breaker.isOpen).toBe(true);
    asked[0]!.answer();
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.isOpen).toBe(false);
    expect(changes).toEqual([true, false]);
    await vi.advanceTimersByTimeAsync(A_WHILE);
    expect(asked).toHaveLength(1);
  });

  it('an answer that took longer than a command may does not close it: it is asked again, and soon', async () => {
    await silence(3);
    await vi.advanceTimersByTimeAsync(A_WHILE);
    await vi.advanceTimersByTimeAsync(ANSWER_MS);
    for (let count = 1; count <= 5; count++) {
      expect(asked).toHaveLength(count);
      asked.at(-1)!.answer();
      await vi.advanceTimersByTimeAsync(100);
      expect(breaker.isOpen).toBe(true);
      await vi.advanceTimersByTimeAsync(ANSWER_MS); // slow, all the time
    }
    expect(changes).toEqual([true]);
    asked.at(-1)!.answer(); // too late once more
    await vi.advanceTimersByTimeAsync(100);
    asked.at(-1)!.answer();
    await vi.advanceTimersByTimeAsync(0);
    expect(changes).toEqual([true, false]);
    const count = asked.length;
    await vi.advanceTimersByTimeAsync(A_WHILE);
    expect(asked).toHaveLength(count);
  });

  it('a late answer to a question of an outage that is over asks nothing', async () => {
    await silence(3);
    await vi.advanceTimersByTimeAsync(A_WHILE + ANSWER_MS);
    breaker.onAnswer(); // of a repair, or on a new link
    await vi.advanceTimersByTimeAsync(0);
    asked[0]!.answer();
    await vi.advanceTimersByTimeAsync(A_WHILE);
    expect([breaker.isOpen, asked.length, vi.getTimerCount()]).toEqual([false, 1, 0]);
  });

  it('a question that could not be put is put again, later each time and not at the same moment everywhere', async () => {
    const gapsOf = async () => {
      const gaps: number[] = [];
      for (let count = 0; count < 6; count++) {
        const before = asked.length;
        let gap = 0;
        for (; asked.length === before; gap++) await vi.advanceTimersByTimeAsync(1);
        gaps.push(gap);
        asked.at(-1)!.fail();
        await vi.advanceTimersByTimeAsync(0);
      }
      return gaps;
    };
    await silence(3);
    const one = await gapsOf();
    breaker.onAnswer();
    await vi.advanceTimersByTimeAsync(0);
    await silence(3);
    const other = await gapsOf();
    expect(Math.max(...one, ...other)).toBeLessThanOrEqual(501);
    expect(Math.max(...one)).toBeGreaterThan(one[0]!);
    expect(one).not.toEqual(other);
  });

  it('an answer of anything else closes it too, also one that comes in the moment in which it opens', async () => {
    await silence(3);
    breaker.onAnswer();
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.isOpen).toBe(false);
    for (let count = 0; count < 3; count++) breaker.onSilence();
    breaker.onAnswer();
    await vi.advanceTimersByTimeAsync(A_WHILE);
    asked.at(-1)?.answer();
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.isOpen).toBe(false);
  });

  it('a wall clock that is set back an hour, or ahead, changes nothing', async () => {
    await silence(3);
    vi.setSystemTime(Date.now() - 3_600_000);
    await vi.advanceTimersByTimeAsync(A_WHILE);
    asked[0]!.answer();
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.isOpen).toBe(false);
    await silence(3);
    vi.setSystemTime(Date.now() + 3_600_000);
    expect(breaker.isOpen).toBe(true);
  });

  it('close() ends the asking, before the first question and after one that failed', async () => {
    await silence(3);
    breaker.close();
    expect(vi.getTimerCount()).toBe(0);
    await vi.advanceTimersByTimeAsync(A_WHILE);
    expect(asked).toHaveLength(0);
  });
  it('close() while a question is out: no other follows', async () => {
    await silence(3);
    await vi.advanceTimersByTimeAsync(A_WHILE);
    breaker.close();
    asked[0]!.fail();
    await vi.advanceTimersByTimeAsync(A_WHILE);
    expect(asked).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
  });
});

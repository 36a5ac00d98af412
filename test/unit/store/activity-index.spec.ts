import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { ActivityIndex } from '../../../lib/store/activity-index.js';
import { deferred } from '../harness.js';

type Notes = Parameters<NonNullable<ConstructorParameters<typeof ActivityIndex>[0]>>[0];

/** An index, and what it has written: id, user and time of each note. */
function open(write: (notes: Notes) => Promise<void> = async () => undefined) {
  const written: [id: string, user: string, at: number][] = [];
  const index = new ActivityIndex(async (notes) => {
    await write(notes);
    for (const [id, { user, at }] of notes) written.push([id, user, at]);
  });
  onTestFinished(() => index.close());
  return { index, written };
}

describe('ActivityIndex', () => {
  it('writes each session’s last use once, a second later or when asked', async () => {
    vi.useFakeTimers();
    try {
      const { index, written } = open();
      index.note('a', 'ann', 1);
      index.note('a', 'ann', 3);
      index.note('a', 'ann', 2);
      index.note('b', '', 5);
      await vi.advanceTimersByTimeAsync(990);
      expect(written).toEqual([]);
      await vi.advanceTimersByTimeAsync(20);
      expect(written).toEqual([
        ['a', 'ann', 3],
        ['b', '', 5],
      ]);
      index.note('a', 'ann', 9);
      await index.flush();
      expect(written.slice(2)).toEqual([['a', 'ann', 9]]);
      await vi.advanceTimersByTimeAsync(5_000);
      expect(written).toHaveLength(3);
    } finally {
      vi.useRealTimers();
    }
  });

  it('close() leaves no timer, whatever could not be written, and whatever is noted after it', async () => {
    vi.useFakeTimers();
    try {
      let tries = 0;
      const { index } = open(async () => {
        tries++;
        throw new Error('the store is away');
      });
      index.note('a', 'ann', 1);
      await index.close();
      index.note('b', 'bob', 2); // the reply to a write that was under way
      expect(vi.getTimerCount()).toBe(0);
      await vi.advanceTimersByTimeAsync(5_000);
      expect(tries).toBe(1);
    } finally {
      vi.useRealTimers();
    }
  });

  it('flush() writes what was noted before it, even while another one is under way', async () => {
    const first = deferred<void>();
    let calls = 0;
    const { index, written } = open(async () => (calls++ === 0 ? first.promise : undefined));
    index.note('a', 'ann', 1);
    const begun = index.flush();
    index.note('b', 'bob', 2);
    const next = index.flush();
    first.resolve();
    await begun;
    await next;
    expect(written.map(([id]) => id)).toEqual(['a', 'b']);
  });

  it('flush() never rejects, and what could not be written is written later, unless it was noted anew or forgotten', async () => {
    let down = true;
    const { index, written } = open(async () => {
      if (down) throw new Error('down');
    });
    index.note('a', 'ann', 1);
    index.note('b', 'bob', 1);
    index.note('c', 'cid', 1);
    await index.flush();
    index.note('a', 'ann', 2);
    index.forget('b');
    down = false;
    await index.flush();
    expect(written.toSorted(([a], [b]) => (a < b ? -1 : 1))).toEqual([
      ['a', 'ann', 2],
      ['c', 'cid', 1],
    ]);
  });

  it('writes much in several parts', async () => {
    const sizes: number[] = [];
    const { index, written } = open(async (notes) => void sizes.push(notes.length));
    for (let i = 0; i < 7_000; i++) index.note(`id ${i}`, '', i);
    await index.flush();
    expect(Math.max(...sizes)).toBeLessThanOrEqual(3_200);
    expect(new Set(written.map(([id]) => id)).size).toBe(7_000);
  });

  it('close() writes what is left', async () => {
    const { index, written } = open();
    index.note('a', 'ann', 1);
    await index.close();
    expect(written).toEqual([['a', 'ann', 1]]);
  });
});

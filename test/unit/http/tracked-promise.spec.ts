import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { TrackedPromise } from '../../../lib/http/tracked-promise.js';

const failure = new Error('of the operation');

describe('TrackedPromise', () => {
  const unhandled = vi.fn<(reason: unknown) => void>();
  let others: NodeJS.UnhandledRejectionListener[];
  beforeEach(() => {
    unhandled.mockReset();
    others = process.listeners('unhandledRejection');
    process.removeAllListeners('unhandledRejection').on('unhandledRejection', unhandled);
  });
  afterEach(() => {
    process.removeAllListeners('unhandledRejection');
    for (const other of others) process.on('unhandledRejection', other);
  });

  it('is a promise, of what it was made of', async () => {
    const promise = TrackedPromise.of(Promise.resolve(7));
    expect(promise).toBeInstanceOf(Promise);
    expect(Object.prototype.toString.call(promise)).toBe('[object Promise]');
    expect(await promise).toBe(7);
    await expect(TrackedPromise.of(Promise.reject(failure))).rejects.toBe(failure);
  });

  it('is not taken by being made, kept or looked at', async () => {
    const promise = TrackedPromise.of(Promise.resolve(7));
    const kept = { promise };
    void JSON.stringify(kept);
    await turn();
    expect(kept.promise.taken).toBe(false);
  });

  it.each<[string, (promise: TrackedPromise<unknown>) => unknown]>([
    ['await', async (promise) => promise],
    ['then()', (promise) => promise.then(() => 1)],
    ['catch()', (promise) => promise.catch(() => 1)],
    ['finally()', (promise) => promise.finally(() => 1)],
    ['Promise.all()', (promise) => Promise.all([promise, Promise.resolve()])],
    ['Promise.race()', (promise) => Promise.race([promise, new Promise(() => undefined)])],
    ['Promise.resolve()', (promise) => Promise.resolve(promise)],
    ['being returned by an async function', async (promise) => promise],
    ['resolving another promise', (promise) => new Promise((resolve) => resolve(promise))],
  ])('is taken by %s', async (_name, take) => {
    const promise = TrackedPromise.of(Promise.resolve(7));
    const made = take(promise);
    await turn();
    expect(promise.taken).toBe(true);
    await made;
  });

  it('that nobody takes raises no unhandledRejection, whenever it rejects', async () => {
    const early = TrackedPromise.of(Promise.reject(failure));
    const late = TrackedPromise.of(turn().then(() => Promise.reject(failure)));
    for (let round = 0; round < 4; round++) await turn();
    expect([early.taken, late.taken, unhandled.mock.calls]).toEqual([false, false, []]);
  });

  it('what is made of it is a plain promise, whose rejection is not hidden', async () => {
    const promise = TrackedPromise.of(Promise.reject(failure));
    const made = promise.then(() => 1);
    expect(made).not.toBeInstanceOf(TrackedPromise);
    expect(promise.finally(() => undefined)).not.toBeInstanceOf(TrackedPromise);
    for (let round = 0; round < 4; round++) await turn();
    expect(unhandled.mock.calls.map(([reason]) => reason)).toEqual([failure, failure]);
  });

  it('can be taken late, and still tells the error', async () => {
    const promise = TrackedPromise.of(Promise.reject(failure));
    for (let round = 0; round < 4; round++) await turn();
    await expect(promise).rejects.toBe(failure);
    expect(unhandled.mock.calls).toEqual([]);
  });
});

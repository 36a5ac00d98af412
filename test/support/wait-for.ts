// Polling with a deadline: the only way specs wait for something they get no promise for.
import { setTimeout as sleep } from 'node:timers/promises';

/** How `waitFor` polls; both times are milliseconds. */
export interface WaitForOptions {
  /** Total time allowed, 5000 by default. */
  timeoutMs?: number;
  /** Pause between two attempts, 10 by default. */
  intervalMs?: number;
  /** What was being waited for; opens the error's message. */
  message?: string;
}

/** `T` without the values that mean "not yet". */
export type Truthy<T> = Exclude<T, false | 0 | 0n | '' | null | undefined | void>;

/**
 * Calls `fn` until it returns (or resolves to) something truthy, and gives that back. A throw counts as "not yet",
 * so assertions may be used as long as the function returns `true` after them. Rejects at the deadline with the
 * last failure in its message and as its `cause`; an attempt that never settles is abandoned then.
 */
export async function waitFor<T>(
  fn: () => T | Promise<T>,
  { timeoutMs = 5000, intervalMs = 10, message = 'waitFor' }: WaitForOptions = {},
): Promise<Truthy<T>> {
  const deadline = performance.now() + timeoutMs;
  let last = 'the first attempt never settled';
  let cause: unknown;
  for (;;) {
    const attempt = await settle(fn, Math.max(0, deadline - performance.now()));
    if (attempt.kind === 'value') {
      if (attempt.value) return attempt.value as Truthy<T>;
      const hint = attempt.value === undefined ? ' (after assertions, return true)' : '';
      last = `returned ${String(attempt.value)}${hint}`;
      cause = undefined;
    } else if (attempt.kind === 'error') {
      const { error } = attempt;
      last = `threw ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`;
      cause = error;
    }
    if (attempt.kind === 'late' || performance.now() + intervalMs > deadline) {
      throw new Error(`${message}: not within ${timeoutMs} ms; last attempt ${last}`, { cause });
    }
    await sleep(intervalMs);
  }
}

type Attempt<T> = { kind: 'value'; value: T } | { kind: 'error'; error: unknown } | { kind: 'late' };

async function settle<T>(fn: () => T | Promise<T>, withinMs: number): Promise<Attempt<T>> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Attempt<T>>((resolve) => {
    timer = setTimeout(() => resolve({ kind: 'late' }), withinMs);
  });
  const run = async (): Promise<Attempt<T>> => {
    try {
      return { kind: 'value', value: await fn() };
    } catch (error) {
      return { kind: 'error', error };
    }
  };
  try {
    return await Promise.race([run(), late]);
  } finally {
    clearTimeout(timer);
  }
}

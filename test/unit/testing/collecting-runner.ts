import type { SuiteRunner } from '../../../lib/testing/index.js';

/** Thrown by `skip`, as vitest and mocha do it. */
class Skipped extends Error {}

export interface Collected {
  readonly passed: string[];
  /** Titles, in order. */
  readonly failed: string[];
  readonly skipped: { readonly title: string; readonly reason: string }[];
}

/** How a runner lets a test skip itself. */
type Skipping = 'context' | 'this' | 'none';

/** A test runner that only tells what happened: collects what is declared, then runs it one by one. */
export class CollectingRunner implements SuiteRunner {
  readonly #tests: { title: string; body: (...context: unknown[]) => Promise<void> }[] = [];

  /** @param skipping `context` as vitest, `this` as mocha, `none` as jest */
  constructor(private readonly skipping: Skipping = 'context') {}

  readonly describe = (_: string, body: () => void): void => body();

  readonly it = (title: string, body: () => Promise<void>): void => {
    // What a runner that hands over `done` for every parameter would do with it.
    if (body.length > 0) throw new Error(`"${title}" would be called with a callback by jest and mocha`);
    this.#tests.push({ title, body });
  };

  async run(): Promise<Collected> {
    const collected: Collected = { passed: [], failed: [], skipped: [] };
    for (const { title, body } of this.#tests) {
      let reason: string | undefined;
      const context = {
        skip: (why?: string) => {
          reason = why ?? '';
          throw new Skipped();
        },
      };
      try {
        await (this.skipping === 'context'
          ? body(context)
          : body.call(this.skipping === 'this' ? context : undefined));
        collected.passed.push(title);
      } catch {
        if (reason === undefined) collected.failed.push(title);
        else collected.skipped.push({ title, reason });
      }
    }
    return collected;
  }
}

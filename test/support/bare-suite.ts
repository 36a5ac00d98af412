// The conformance suite for stores without capabilities, until the suite itself leaves out what a store cannot.
import type { TestContext } from 'vitest';
import { describe, it } from 'vitest';
import type { SuiteRunner } from './session-store.suite.js';

const NEEDS_MORE = /alias|limit|lead|successor|make room|makes room|room for/i;

/** @param canList false for a store without all() */
export function bareRunner({ canList = true } = {}): SuiteRunner {
  let skips = 0;
  return {
    describe: (name, body) => {
      const isOut = NEEDS_MORE.test(name);
      if (isOut) skips++;
      describe.skipIf(skips > 0)(name, body);
      if (isOut) skips--;
    },
    it: (name, body) =>
      it.skipIf(NEEDS_MORE.test(name))(name, async (context: TestContext) => {
        try {
          await body();
        } catch (error) {
          const { message } = error as Error;
          if (/has no capabilities\.index/.test(message)) context.skip('needs capabilities.index');
          if (canList === false && /has no method all\(\)/.test(message)) context.skip('needs all()');
          throw error;
        }
      }),
  };
}

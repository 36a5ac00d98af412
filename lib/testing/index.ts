// The contract of SessionStore as tests that anyone can run over a store of theirs, with any test runner.
import { activityTests } from './activity.tests.js';
import { aliasTests } from './alias.tests.js';
import { bulkTests } from './bulk.tests.js';
import { createTests } from './create.tests.js';
import { destroyTests } from './destroy.tests.js';
import { expiryTests } from './expiry.tests.js';
import { listTests } from './lists.tests.js';
import { moveTests } from './move.tests.js';
import { raceTests } from './races.tests.js';
import { setTests } from './set.tests.js';
import { createSuite, type OpenedStore, type SuiteRunner } from './suite.js';
import { touchTests } from './touch.tests.js';
import { userTests } from './users.tests.js';
import { valueTests } from './values.tests.js';

export { newSession, SUITE_PARTITIONS } from './kit.js';
export type { OpenedStore, SuiteRunner } from './suite.js';

const TOPICS = [
  createTests,
  setTests,
  touchTests,
  destroyTests,
  moveTests,
  aliasTests,
  userTests,
  listTests,
  activityTests,
  expiryTests,
  valueTests,
  raceTests,
  bulkTests,
];

/**
 * Declares the tests that every `SessionStore` must pass. It needs no test runner of its own:
 *
 * ```ts
 * describeSessionStore({ describe, it }, 'MyStore', async () => {
 *   const store = new MyStore();
 *   await store.open();
 *   return { store, close: () => store.close() };
 * });
 * ```
 *
 * What the store's `capabilities` leave out is skipped, each test by name with the reason; in jest, which cannot skip a
 * test that has begun, such tests count as passed. Some take seconds over a store on a disk or a network: allow 30 s for
 * one (mocha: `--timeout 30000`; the one with 10,000 sessions asks vitest and jest for more by itself).
 *
 * @param open makes an empty store; called once per test
 * @publicApi
 */
export function describeSessionStore(
  runner: SuiteRunner,
  name: string,
  open: () => Promise<OpenedStore>,
): void {
  const suite = createSuite(runner, open);
  suite.describe(`SessionStore contract: ${name}`, () => {
    for (const declare of TOPICS) declare(suite);
  });
}

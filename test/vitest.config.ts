import { fileURLToPath } from 'node:url';
import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config';
import { LongestFirst } from './support/longest-first.js';

/** Some of the tests: files of one kind, run in one way. */
const project = (
  name: string,
  include: string[],
  test: TestProjectInlineConfiguration['test'],
): TestProjectInlineConfiguration => ({ extends: true, test: { name, include, ...test } });

// Unit tests import ../../lib/… directly. Child processes and e2e apps that need the package by its name run
// the built dist/, so `nestjs-sessionkit` has deliberately no alias here: two copies in one process would be
// two sets of injection tokens.
export default defineConfig({
  root: fileURLToPath(new URL('..', import.meta.url)),
  test: {
    environment: 'node',
    globals: false,
    globalSetup: ['./test/support/global-setup.ts'],
    pool: 'forks',
    testTimeout: 30_000,
    hookTimeout: 30_000,
    teardownTimeout: 10_000,
    restoreMocks: true,
    passWithNoTests: false,
    // An unhandled rejection anywhere fails the run.
    dangerouslyIgnoreUnhandledErrors: false,
    sequence: { sequencer: LongestFirst },
    projects: [
      // Outcomes, whatever the machine's pace. A process runs file after file, as a fresh one spends a second of CPU on
      // its imports, and a third process works while others wait.
      project('unit', ['test/unit/**/*.spec.ts', 'test/support/*.spec.ts'], {
        isolate: false,
        maxWorkers: 3,
        // test/types/*.test-d.ts are checked by tsc itself: here within `npm test`, and by `npm run typecheck`, which CI
        // has run.
        typecheck: {
          enabled: process.env.CI === undefined,
          checker: 'tsc',
          tsconfig: './test/tsconfig.json',
          include: ['test/types/**/*.test-d.ts'],
        },
      }),
      project('e2e', ['test/e2e/*.e2e-spec.ts'], { isolate: false, maxWorkers: 3 }),
      // After those: leases, deadlines and faults go by real time, so there is a core for each of these.
      project('servers', ['test/integration/*.integration-spec.ts', 'test/faults/*.fault-spec.ts'], {
        maxWorkers: 2,
        sequence: { groupOrder: 1 },
      }),
    ],
  },
});

import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

// Unit tests import ../../lib/… directly. Child processes and e2e apps that need the package by its name run
// the built dist/, so `nestjs-sessionkit` has deliberately no alias here: two copies in one process would be
// two sets of injection tokens.
export default defineConfig({
  root: fileURLToPath(new URL('..', import.meta.url)),
  test: {
    include: [
      'test/**/*.spec.ts',
      'test/**/*.integration-spec.ts',
      'test/**/*.fault-spec.ts',
      'test/**/*.e2e-spec.ts',
    ],
    // test/types/*.test-d.ts are checked by tsc itself: here within `npm test`, and by `npm run typecheck`, which CI has run.
    typecheck: {
      enabled: process.env.CI === undefined,
      checker: 'tsc',
      tsconfig: './test/tsconfig.json',
      include: ['test/types/**/*.test-d.ts'],
    },
    environment: 'node',
    globals: false,
    globalSetup: ['./test/support/global-setup.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 30_000,
    teardownTimeout: 10_000,
    restoreMocks: true,
    passWithNoTests: false,
    // An unhandled rejection anywhere fails the run.
    dangerouslyIgnoreUnhandledErrors: false,
  },
});

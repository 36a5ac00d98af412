import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

// Only for `soak.mjs`: the soak takes minutes and stays out of `npm test`.
export default defineConfig({
  root: fileURLToPath(new URL('../..', import.meta.url)),
  test: {
    include: ['test/faults/*.soak-spec.ts'],
    environment: 'node',
    pool: 'forks',
    hookTimeout: 60_000,
    // Lines as they come: nobody waits five minutes in the dark.
    disableConsoleIntercept: true,
  },
});

// npm run test:soak -- [seconds, 300 by default]. Ends with code 1 when a promise of the near cache was broken.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const seconds = Number(process.argv[2] ?? 300);
if (!(seconds > 0)) {
  process.stderr.write('Usage: npm run test:soak -- [seconds]\n');
  process.exit(2);
}
const root = fileURLToPath(new URL('../..', import.meta.url));
const args = ['node_modules/vitest/vitest.mjs', 'run', '--config', 'test/faults/vitest.soak.config.ts'];
const { status } = spawnSync(process.execPath, args, {
  cwd: root,
  env: { ...process.env, SOAK_SECONDS: String(seconds) },
  stdio: 'inherit',
});
process.exit(status ?? 1);

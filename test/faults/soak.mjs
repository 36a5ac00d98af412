// npm run test:soak -- [seconds, 300 by default]. Ends with code 1 when a promise of the near cache was broken, or one of
// those about a Redis that is dead and alive in turn: that takes another minute.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const seconds = Number(process.argv[2] ?? 300);
if (!(seconds > 0)) {
  process.stderr.write('Usage: npm run test:soak -- [seconds]\n');
  process.exit(2);
}
const root = fileURLToPath(new URL('../..', import.meta.url));
const run = (args, env) =>
  spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', ...args], {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: 'inherit',
  }).status ?? 1;

const faults = run(['--config', 'test/faults/vitest.soak.config.ts'], { SOAK_SECONDS: String(seconds) });
const toggling = ['test/integration/breaker.integration-spec.ts', '-t', 'dead and alive'];
const outages = run(['--config', 'test/vitest.config.ts', '--typecheck=false', ...toggling], { SOAK: '1' });
process.exit(faults || outages);

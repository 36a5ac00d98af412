// nestjs-sessionkit/testing under a runner that is not ours, from dist/, as ES module and by require().
import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const WORKER = fileURLToPath(new URL('workers/suite-in-node-test.mjs', import.meta.url));

/** Exit code, and the numbers at the end of a TAP report, of the tests whose names match `only`. */
function run(
  env: Record<string, string>,
  only = '.',
): Promise<{ code: unknown; report: string; count: (what: string) => number }> {
  return new Promise((resolve) => {
    const { NODE_TEST_CONTEXT: _, ...inherited } = process.env;
    execFile(
      process.execPath,
      ['--test', '--test-reporter=tap', `--test-name-pattern=${only}`, WORKER],
      { env: { ...inherited, ...env }, maxBuffer: 50_000_000 },
      (error, report) =>
        resolve({
          code: error?.code ?? 0,
          report,
          count: (what) => Number(new RegExp(`^# ${what} (\\d+)$`, 'm').exec(report)?.[1]),
        }),
    );
  });
}

describe('describeSessionStore() under node:test', { timeout: 120_000 }, () => {
  it('passes a sound store, and skips with the reason what it cannot', async () => {
    const { code, report, count } = await run({});
    expect([code, count('fail')]).toEqual([0, 0]);
    expect(count('pass')).toBeGreaterThan(100);
    expect(count('skipped')).toBeGreaterThan(10);
    expect(report).toContain('# SKIP no capabilities.aliases');
  });

  it('fails a broken one', async () => {
    // Not the whole suite again, which waits for real time: describe-session-store.spec.ts has what fails over what.
    const { code, report, count } = await run({ BROKEN: '1' }, '^destroy');
    expect(code).toBe(1);
    expect(count('fail')).toBeGreaterThan(0);
    expect(count('pass')).toBeGreaterThan(0);
    expect(report).toMatch(/not ok \d+ - destroy\(\) is true once, then false/);
  });

  it('can be required', () => {
    const required = createRequire(import.meta.url)('nestjs-sessionkit/testing') as object;
    expect(Object.keys(required).sort()).toEqual(['SUITE_PARTITIONS', 'describeSessionStore', 'newSession']);
  });
});

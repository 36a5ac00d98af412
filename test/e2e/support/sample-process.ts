// The samples as people run them: compiled, in processes of their own.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { dieWithParent, exitedWithin } from '../../support/orphan-guard.js';
import { waitFor } from '../../support/wait-for.js';

const SAMPLES = fileURLToPath(new URL('../../../sample', import.meta.url));
const ROOT = join(SAMPLES, '..');
const mainOf = (name: string): string => join(SAMPLES, name, 'dist/main.js');

const scratch = mkdtempSync(join(tmpdir(), 'sessionkit-sample-'));
const running = new Set<SampleProcess>();

/** One sample in a process of its own, on a port of its own. It prints curl lines when it is ready. */
export class SampleProcess {
  #output = '';
  readonly #child: ChildProcess;

  private constructor(name: string, env: Record<string, string>) {
    const { REDIS_URL: _, ...inherited } = process.env;
    mkdirSync(scratch, { recursive: true }); // `stopAll` of another file may have removed it
    this.#child = spawn(process.execPath, [mainOf(name)], {
      env: { ...inherited, PORT: '0', TMPDIR: scratch, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    dieWithParent(this.#child);
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.#output += text));
    }
  }

  static async start(name: string, env: Record<string, string> = {}): Promise<SampleProcess> {
    const sample = new SampleProcess(name, env);
    running.add(sample);
    await waitFor(() => /curl[^\n]*\n\s*$/.test(sample.#output) || sample.#child.exitCode !== null, {
      timeoutMs: 20_000,
      message: 'the sample to print its curl lines',
    });
    if (sample.#child.exitCode !== null) throw new Error(`The sample does not start:\n${sample.#output}`);
    return sample;
  }

  /** What it says when it cannot start; it must end by itself with code 1. */
  static async fail(name: string, env: Record<string, string>): Promise<string> {
    const sample = new SampleProcess(name, env);
    running.add(sample);
    const code = await waitFor(() => sample.#child.exitCode, {
      timeoutMs: 20_000,
      message: 'the sample to give up',
    });
    expect(code).toBe(1);
    return sample.#output;
  }

  /** Stops those that still run; for the end of a file of tests. */
  static async stopAll(): Promise<void> {
    await Promise.all([...running].map((sample) => sample.stop()));
    rmSync(scratch, { recursive: true, force: true });
  }

  get output(): string {
    return this.#output;
  }

  get url(): string {
    return /http:\/\/127\.0\.0\.1:\d+/.exec(this.#output)?.[0] ?? '';
  }

  async stop(): Promise<void> {
    running.delete(this);
    this.#child.kill('SIGTERM');
    if (await exitedWithin(this.#child, 3000)) return;
    this.#child.kill('SIGKILL');
    throw new Error(`The sample did not end within 3 s of SIGTERM:\n${this.#output}`);
  }
}

/** Compiles a sample unless its output is newer than all of its sources; the library must have been built. */
export function compileSample(name: string): void {
  const directory = join(SAMPLES, name);
  const built = (file: string): number => (existsSync(file) ? statSync(file).mtimeMs : 0);
  const sources = [join(directory, 'tsconfig.json'), join(ROOT, 'dist/index.d.ts')];
  for (const file of readdirSync(join(directory, 'src'))) sources.push(join(directory, 'src', file));
  if (sources.every((file) => built(file) < built(mainOf(name)))) return;
  execFileSync(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', directory], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
}

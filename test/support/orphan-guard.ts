// Child processes that cannot outlive the test process, however it ends (exit, crash, SIGKILL).
import { spawn, type ChildProcess } from 'node:child_process';
import { rmSync } from 'node:fs';

interface Guarded {
  child: ChildProcess;
  directory: string | undefined;
}

const guarded = new Set<Guarded>();

// `exit` covers an ordinary end; the sentinel below covers the ends that run no handler.
process.on('exit', () => {
  for (const { child, directory } of guarded) {
    child.kill('SIGKILL');
    if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
  }
});

const SENTINEL = `trap '' INT TERM HUP; read _; kill -9 "$1" 2>/dev/null; [ -z "$2" ] || rm -rf "$2"`;

/**
 * Kills `child` (SIGKILL) and removes `directory` once this process is gone. A shell holds the far end of a pipe
 * whose near end only we have: it reads end-of-file the moment we die. The guard ends by itself when the child does.
 */
export function dieWithParent(child: ChildProcess, directory?: string): void {
  if (child.pid === undefined) return;
  const entry: Guarded = { child, directory };
  const sentinel = spawn('/bin/sh', ['-c', SENTINEL, 'orphan-guard', String(child.pid), directory ?? ''], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  sentinel.on('error', () => undefined);
  sentinel.stdin.on('error', () => undefined);
  sentinel.unref();
  (sentinel.stdin as unknown as { unref(): void }).unref();
  guarded.add(entry);
  child.once('exit', () => {
    guarded.delete(entry);
    sentinel.kill('SIGKILL');
  });
}

/** Resolves `true` once `child` has exited, `false` after `timeoutMs`; never rejects and sends no signal. */
export function exitedWithin(child: ChildProcess, timeoutMs: number): Promise<boolean> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve(true);
  return new Promise((resolve) => {
    const onExit = (): void => {
      clearTimeout(timer);
      resolve(true);
    };
    const timer = setTimeout(() => {
      child.off('exit', onExit);
      resolve(false);
    }, timeoutMs);
    child.once('exit', onExit);
  });
}

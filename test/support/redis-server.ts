// A private redis-server process for tests: started on a free port, without persistence, gone with the test process.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from './free-port.js';
import { dieWithParent, exitedWithin } from './orphan-guard.js';
import { waitFor } from './wait-for.js';

const START_DEADLINE_MS = 10_000;
const TERM_GRACE_MS = 3000;
const HOST = '127.0.0.1';

/** Which server to test on: `redis` or `valkey`. Without it, what is there; where both are, Redis. */
const WANTED = 'SESSIONKIT_SERVER';

/** The programs that will do, the better first. Throws when the environment names another server. */
function wantedPrograms(): readonly string[] {
  const wanted = process.env[WANTED] ?? '';
  if (wanted === '') return ['redis-server', 'valkey-server'];
  if (wanted === 'redis' || wanted === 'valkey') return [`${wanted}-server`];
  throw new Error(`${WANTED} is "${wanted}": write "redis" or "valkey", or leave it out.`);
}

/**
 * The absolute path of `redis-server`, else `valkey-server`, on the search path (of the one that SESSIONKIT_SERVER names,
 * where it is set); `null` when there is none.
 */
export function findRedisServer(searchPath: string = process.env.PATH ?? ''): string | null {
  for (const name of wantedPrograms()) {
    const found = findProgram(name, searchPath);
    if (found !== null) return found;
  }
  return null;
}

/**
 * Like `findRedisServer`, but installs the distribution's package first when nothing is found and we are root on
 * Debian or Ubuntu (takes up to minutes, says so in one line on stderr). Otherwise throws one line telling what to
 * install.
 */
export function ensureRedisServer(searchPath: string = process.env.PATH ?? ''): string {
  const found = findRedisServer(searchPath);
  if (found !== null) return found;
  const programs = wantedPrograms();
  const name = programs[0]!; // the package has the name of the program
  const advice = `Tests need ${name}${programs.length > 1 ? ' (or valkey-server)' : ''} on PATH`;
  if (!isDebian() || process.getuid?.() !== 0 || findProgram('apt-get', searchPath) === null) {
    throw new Error(
      `${advice}: install it, e.g. "apt-get install ${name}" as root or "brew install ${name.replace('-server', '')}".`,
    );
  }
  process.stderr.write(`No ${name} on PATH: running apt-get install -y ${name} ...\n`);
  // RUNLEVEL=1 keeps the package from starting its system service: tests start their own.
  const env = { ...process.env, PATH: searchPath, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
  for (const args of [['update'], ['install', '-y', name]]) {
    const run = spawnSync('apt-get', args, { env, encoding: 'utf8' });
    if (run.status !== 0) {
      const why = (run.stderr || run.error?.message || '').trim().split('\n').at(-1) ?? '';
      throw new Error(
        `${advice}, and "apt-get ${args.join(' ')}" failed (${run.status ?? 'no exit'}): ${why}`,
      );
    }
  }
  const installed = findRedisServer(searchPath);
  if (installed === null) throw new Error(`${advice}, and installing the package did not put it there.`);
  return installed;
}

/** How to start a server. */
export interface RedisServerOptions {
  /** The port to use; a free one by default. */
  port?: number;
  /** Further command-line arguments, after ours, e.g. `['--maxmemory', '1mb']`. */
  args?: string[];
}

interface Running {
  child: ChildProcess;
  directory: string;
  /** Settles when the process is gone and its output complete. */
  closed: Promise<void>;
}

/** One redis-server process on 127.0.0.1, with its own temporary directory and no persistence. */
export class RedisServer {
  #running: Running | null = null;
  #port = 0;
  #log = '';
  readonly #args: readonly string[];

  private constructor(args: readonly string[]) {
    this.#args = args;
  }

  /**
   * Starts a server and resolves once it answers PING. A taken port is tried again (another one, unless you named
   * it) until 10 s have passed; then, or when the server exits for another reason, rejects with the server's log.
   */
  static async start({ port, args = [] }: RedisServerOptions = {}): Promise<RedisServer> {
    const server = new RedisServer(args);
    await server.#launch(port);
    return server;
  }

  /** The port; stays the same over `kill()`, `stop()` and `restart()`. */
  get port(): number {
    return this.#port;
  }

  /** `redis://127.0.0.1:<port>`. */
  get url(): string {
    return `redis://${HOST}:${this.#port}`;
  }

  /** Whether our process is alive (a paused one is). */
  get running(): boolean {
    const child = this.#running?.child;
    return child !== undefined && child.exitCode === null && child.signalCode === null;
  }

  /** The server's process id; throws when it is not running. */
  get pid(): number {
    return this.#alive().pid ?? 0;
  }

  /** What the server has written so far (last 64 KiB). */
  get log(): string {
    return this.#log;
  }

  /** Ends the server: SIGTERM, SIGKILL after 3 s, waits for the exit, removes its directory. May be repeated. */
  async stop(): Promise<void> {
    await this.#end('SIGTERM');
  }

  /** Ends the server the hard way (SIGKILL), waits for the exit, removes its directory. May be repeated. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /** Freezes the server (SIGSTOP): connections stay, nothing answers. Resolves once it has really stopped. */
  async pause(): Promise<void> {
    const child = this.#alive();
    child.kill('SIGSTOP');
    const stat = `/proc/${child.pid ?? 0}/stat`;
    if (!existsSync(stat)) return;
    await waitFor(() => / [Tt] /.test(readFileSync(stat, 'utf8').replace(/^.*\)/s, '')), {
      message: 'redis-server to be stopped by SIGSTOP',
      intervalMs: 1,
    });
  }

  /** Lets a paused server run again (SIGCONT); it then answers what came in meanwhile. */
  resume(): void {
    this.#alive().kill('SIGCONT');
  }

  /** Stops the server if it runs, and starts it on the same port with no data. Fails like `start`. */
  async restart(): Promise<void> {
    await this.stop();
    await this.#launch(this.#port);
  }

  #alive(): ChildProcess {
    if (this.#running === null || !this.running) throw new Error('RedisServer: the server is not running');
    return this.#running.child;
  }

  async #launch(fixedPort: number | undefined): Promise<void> {
    const binary = ensureRedisServer();
    const deadline = Date.now() + START_DEADLINE_MS;
    for (;;) {
      const port = fixedPort ?? (await freePort());
      this.#spawn(binary, port);
      if (await this.#ready(port, deadline)) {
        this.#port = port;
        return;
      }
      await this.kill();
      const clash = /address already in use/i.test(this.#log);
      if (!clash || Date.now() >= deadline) {
        throw new Error(`RedisServer: no answer on port ${port}; the server said:\n${this.#log.trim()}`);
      }
      if (fixedPort !== undefined) await sleep(50);
    }
  }

  #spawn(binary: string, port: number): void {
    const directory = mkdtempSync(join(tmpdir(), 'sessionkit-redis-'));
    const own = [
      '--port',
      String(port),
      '--bind',
      HOST,
      '--dir',
      directory,
      '--save',
      '',
      '--appendonly',
      'no',
    ];
    this.#log = '';
    const child = spawn(binary, [...own, ...this.#args], { stdio: ['ignore', 'pipe', 'pipe'] });
    dieWithParent(child, directory);
    const collect = (chunk: Buffer): void => {
      this.#log = (this.#log + chunk.toString('utf8')).slice(-65_536);
    };
    child.stdout?.on('data', collect);
    child.stderr?.on('data', collect);
    child.on('error', (error) => (this.#log += `${error.message}\n`));
    const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
    this.#running = { child, directory, closed };
  }

  /** False when the process exits or the deadline passes first. Asks for the pid: another server may have the port. */
  async #ready(port: number, deadline: number): Promise<boolean> {
    const child = this.#alive();
    while (this.running && Date.now() < deadline) {
      const answer = await probe(port);
      if (answer.startsWith('+PONG') && answer.includes(`process_id:${child.pid ?? 0}\r`)) return true;
      if (answer.startsWith('-NOAUTH') && /ready to accept connections/i.test(this.#log)) return this.running;
      await sleep(10);
    }
    return false;
  }

  async #end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    if (this.#running === null) return;
    const { child, directory, closed } = this.#running;
    child.kill(signal);
    if (signal === 'SIGTERM') child.kill('SIGCONT');
    if (child.pid !== undefined && !(await exitedWithin(child, TERM_GRACE_MS))) {
      child.kill('SIGKILL');
      if (!(await exitedWithin(child, START_DEADLINE_MS))) {
        throw new Error(`RedisServer: process ${child.pid} survives SIGKILL`);
      }
    }
    if (child.pid !== undefined) await closed;
    this.#running = null;
    rmSync(directory, { recursive: true, force: true });
  }
}

/** What the port answers to PING, INFO server and QUIT; the empty string when nobody does within 500 ms. */
function probe(port: number): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const socket = connect(port, HOST, () => socket.write('PING\r\nINFO server\r\nQUIT\r\n'));
    socket.setTimeout(500, () => socket.destroy());
    socket.on('data', (chunk: Buffer) => (text += chunk.toString('latin1')));
    socket.on('error', () => undefined);
    socket.on('close', () => resolve(text));
  });
}

function findProgram(name: string, searchPath: string): string | null {
  for (const directory of searchPath.split(delimiter)) {
    const candidate = join(directory, name);
    if (directory === '') continue;
    try {
      accessSync(candidate, constants.X_OK);
      if (statSync(candidate).isFile()) return candidate;
    } catch {
      // not in this directory
    }
  }
  return null;
}

function isDebian(): boolean {
  try {
    return /^ID(_LIKE)?=.*\b(debian|ubuntu)\b/m.test(readFileSync('/etc/os-release', 'utf8'));
  } catch {
    return false;
  }
}

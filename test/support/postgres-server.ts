// A private PostgreSQL for tests: its own data directory, a free port, gone with the test process.
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from './free-port.js';
import { dieWithParent, exitedWithin } from './orphan-guard.js';
import { waitFor } from './wait-for.js';

const START_DEADLINE_MS = 60_000;
const DEBIAN = '/usr/lib/postgresql';

/** What it runs as, because PostgreSQL refuses root; undefined: as we do. */
interface Owner {
  uid: number;
  gid: number;
}

/** Why there is no PostgreSQL to be had here, or how to start one. */
export function findPostgres(): { bin: string; owner: Owner | undefined } | { missing: string } {
  const versions = existsSync(DEBIAN) ? readdirSync(DEBIAN).sort((a, b) => Number(b) - Number(a)) : [];
  const places = [
    ...versions.map((version) => join(DEBIAN, version, 'bin')),
    ...(process.env.PATH ?? '').split(':'),
  ];
  const bin = places.find(
    (place) => existsSync(join(place, 'initdb')) && existsSync(join(place, 'postgres')),
  );
  if (bin === undefined)
    return { missing: 'no initdb and postgres on this machine (Debian: apt-get install postgresql)' };
  if (process.getuid?.() !== 0) return { bin, owner: undefined };
  const [uid, gid] = ['-u', '-g'].map((flag) =>
    Number(spawnSync('id', [flag, 'postgres'], { encoding: 'utf8' }).stdout || NaN),
  ) as [number, number];
  if (!(uid > 0)) return { missing: 'PostgreSQL refuses root, and there is no user named postgres' };
  return { bin, owner: { uid, gid } };
}

/** One server on 127.0.0.1 that trusts everyone, with the database and user `postgres`. */
export class PostgresServer {
  #log = '';

  private constructor(
    private readonly child: ChildProcess,
    private readonly directory: string,
    readonly port: number,
  ) {
    const collect = (chunk: Buffer): void => void (this.#log = (this.#log + chunk.toString()).slice(-65_536));
    child.stdout?.on('data', collect);
    child.stderr?.on('data', collect);
  }

  /** Resolves once it answers. Rejects with its log when it does not within a minute. */
  static async start(): Promise<PostgresServer> {
    const found = findPostgres();
    if ('missing' in found) throw new Error(`PostgresServer: ${found.missing}`);
    const { bin, owner } = found;
    const directory = mkdtempSync(join(tmpdir(), 'sessionkit-postgres-'));
    if (owner !== undefined) chownSync(directory, owner.uid, owner.gid);
    const init = spawnSync(
      join(bin, 'initdb'),
      [
        '-D',
        join(directory, 'data'),
        '-U',
        'postgres',
        '-A',
        'trust',
        '-E',
        'UTF8',
        '--locale=C',
        '--no-sync',
      ],
      { ...owner, cwd: directory, encoding: 'utf8' },
    );
    if (init.status !== 0) {
      rmSync(directory, { recursive: true, force: true });
      throw new Error(`PostgresServer: initdb failed: ${init.stderr || String(init.error)}`);
    }
    const port = await freePort();
    const settings = ['fsync=off', 'listen_addresses=127.0.0.1', `unix_socket_directories=${directory}`];
    const child = spawn(
      join(bin, 'postgres'),
      ['-D', join(directory, 'data'), '-p', String(port), ...settings.flatMap((setting) => ['-c', setting])],
      { ...owner, cwd: directory, stdio: ['ignore', 'pipe', 'pipe'] },
    );
    dieWithParent(child, directory);
    const server = new PostgresServer(child, directory, port);
    try {
      await server.#ready();
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  get url(): string {
    return `postgres://postgres@127.0.0.1:${this.port}/postgres`;
  }

  /** Ends the server at once, waits for the exit, removes its directory. May be repeated. */
  async stop(): Promise<void> {
    this.child.kill('SIGQUIT'); // "immediate": the data is thrown away
    if (!(await exitedWithin(this.child, 5_000))) this.child.kill('SIGKILL');
    await exitedWithin(this.child, 5_000);
    rmSync(this.directory, { recursive: true, force: true });
  }

  async #ready(): Promise<void> {
    await waitFor(() => this.child.exitCode !== null || /ready to accept connections/.test(this.#log), {
      timeoutMs: START_DEADLINE_MS,
      intervalMs: 50,
      message: 'PostgreSQL to start',
    });
    if (this.child.exitCode !== null) throw new Error(`PostgresServer: it does not start:\n${this.#log}`);
    await waitFor(() => accepts(this.port), { message: 'PostgreSQL to accept a connection' });
  }
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

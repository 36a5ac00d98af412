import { randomBytes } from 'node:crypto';
import { readlinkSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, unlink, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { SessionOptionsError } from '../errors/caller.errors.js';
import type { SessionRecord } from '../core/session-record.interface.js';
import type { SessionEventMap } from '../events/session-events.js';
import type { CacheDecoder, CacheEncoder } from '../options/session-options.interface.js';

/** A process shows that it lives by touching its directory this often; silent ones are cleared away after three times. */
const ALIVE_INTERVAL_MS = 60_000;
const SILENT_AFTER_MS = 3 * ALIVE_INTERVAL_MS;

/** `sessionkit-<host>-<pid>-<random>`: one directory per process generation. */
const GENERATION = /^sessionkit-([A-Za-z0-9.]+)-(\d+)-[A-Za-z0-9_-]{12}$/;

/** What {@link FileCache.write} leaves behind: enough to find the file again and to read it as it was written. */
export interface StoredFile {
  readonly name: string;
  readonly bytes: number;
  /** Whether the encoder made bytes; the decoder gets the same kind back. */
  readonly binary: boolean;
}

/**
 * Bodies of copies in files. It knows nothing of leases and deadlines: the index of `CacheService` decides what may be
 * served, this only keeps and finds.
 *
 * Each process writes to a directory of its own and never reads another's, so that a crash leaves nothing behind that
 * could be served. Files are written aside and renamed, named by public id and version, never by token. Nothing here
 * rejects: what cannot be written or read is reported, and counts as not there.
 */
export class FileCache {
  /** Host and, where there are several, the namespace in which a process id means something. */
  readonly #host = `${hostname()}.${pidNamespace()}`.replaceAll(/[^A-Za-z0-9.]/g, '.');
  readonly #generation = `sessionkit-${this.#host}-${process.pid}-${randomBytes(9).toString('base64url')}`;
  readonly #pending = new Set<Promise<unknown>>();
  #timer: NodeJS.Timeout | undefined;
  #shelf = 0;
  #writing = 0;
  #counter = 0;
  #closed = false;

  constructor(
    private readonly directory: string,
    private readonly encode: CacheEncoder,
    private readonly decode: CacheDecoder,
    private readonly onError: (error: SessionEventMap['cacheError']) => void,
    /** How long a read, a write or the end may take: a file system or an encoder that hangs must hang no request. */
    private readonly timeoutMs: number,
  ) {}

  /** Number of files being written. */
  get writing(): number {
    return this.#writing;
  }

  /**
   * Makes this generation's directory and begins to clear away those of dead processes.
   *
   * @throws {SessionOptionsError} if nothing can be written there
   */
  async open(): Promise<void> {
    try {
      await mkdir(this.#path(String(this.#shelf)), { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw new SessionOptionsError(
        'cache.directory',
        `is ${JSON.stringify(this.directory)}, where nothing can be written (${codeOf(cause)}). Choose a directory this process may write to.`,
        { cause },
      );
    }
    this.#timer = setInterval(() => this.#keepHouse(), ALIVE_INTERVAL_MS).unref();
    this.#keepHouse();
  }

  /** Null when it could not be written. */
  async write(record: SessionRecord): Promise<StoredFile | null> {
    if (this.#closed) return null;
    this.#writing++;
    try {
      return await this.#within('write', record.id, (isLate) => this.#writeAside(record, isLate));
    } finally {
      this.#writing--;
    }
  }

  async #writeAside(record: SessionRecord, isLate: () => boolean): Promise<StoredFile | null> {
    const shelf = this.#shelf;
    // Numbered, because two fills may write one version: each copy removes its own file.
    const name = `${shelf}/${record.id}-${record.version}-${this.#counter++}`;
    const path = this.#path(name);
    const aside = `${path}.new`;
    try {
      const body = await this.encode(record);
      if (typeof body !== 'string' && !(body instanceof Uint8Array)) {
        throw new TypeError('cache.encoder must return a string or bytes');
      }
      await writeFile(aside, body, { mode: 0o600 }).catch(async (error: unknown) => {
        if (codeOf(error) !== 'ENOENT') throw error;
        // Somebody cleared the directory away: a temporary directory, or another process that took us for dead.
        await mkdir(dirname(path), { recursive: true, mode: 0o700 });
        await writeFile(aside, body, { mode: 0o600 });
      });
      await rename(aside, path);
      if (isLate()) await unlink(path); // nobody waits for it any more
      return { name, bytes: Buffer.byteLength(body), binary: typeof body !== 'string' };
    } catch (error) {
      // The shelf was cleared away under it: what is gone should be gone.
      if (codeOf(error) !== 'ENOENT' || shelf === this.#shelf) this.#report('write', record.id, error);
      await unlink(aside).catch(() => undefined); // it may not have been made
      return null;
    }
  }

  /** What the decoder made of the file; null when it cannot be read. The caller checks that it is what was written. */
  async read(id: string, { name, binary }: StoredFile): Promise<{ readonly body: unknown } | null> {
    return this.#within('read', id, async () => {
      try {
        const body = await readFile(this.#path(name));
        return { body: await this.decode(binary ? body : body.toString()) };
      } catch (error) {
        this.#report('read', id, error);
        return null;
      }
    });
  }

  remove(id: string, { name }: StoredFile): void {
    void this.#track(() =>
      unlink(this.#path(name)).catch((error: unknown) => {
        if (codeOf(error) !== 'ENOENT') this.#report('remove', id, error);
      }),
    );
  }

  /** Removes all files, in the background; later ones are written to a place of their own. */
  clear(): void {
    const old = this.#path(String(this.#shelf++));
    void this.#track(() => this.#removeAll(old));
  }

  /** Resolves when nothing is being written, read or removed any more. */
  async idle(): Promise<void> {
    while (this.#pending.size > 0) await Promise.all(this.#pending);
  }

  /** Removes everything this process has written. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await Promise.race([this.idle(), delay(this.timeoutMs, undefined, { ref: false })]);
    await this.#removeAll(this.#path());
  }

  #path(name = ''): string {
    return join(this.directory, this.#generation, name);
  }

  #keepHouse(): void {
    void this.#track(async () => {
      const now = new Date();
      await utimes(this.#path(), now, now).catch(() => undefined); // the next write makes it again
      const names = await readdir(this.directory).catch(() => []);
      for (const name of names) {
        if (name !== this.#generation && (await this.#isDead(name)))
          await this.#removeAll(join(this.directory, name));
      }
    });
  }

  /** On this host a process can be asked for; in another container or host it can only fall silent. */
  async #isDead(name: string): Promise<boolean> {
    const [, host, pid] = GENERATION.exec(name) ?? [];
    if (host === undefined) return false; // not ours to judge
    if (host === this.#host && !isRunning(Number(pid))) return true;
    try {
      return Date.now() - (await stat(join(this.directory, name))).mtimeMs > SILENT_AFTER_MS;
    } catch {
      return false; // gone meanwhile
    }
  }

  async #removeAll(path: string): Promise<void> {
    try {
      await rm(path, { recursive: true, force: true, maxRetries: 2 });
    } catch (error) {
      this.#report('remove', null, error);
    }
  }

  #report(operation: 'write' | 'read' | 'remove', id: string | null, error: unknown): void {
    if (!this.#closed) this.onError({ operation, id, code: codeOf(error) });
  }

  /** Null when it takes too long; what comes later is told that it is late. */
  async #within<T>(
    operation: 'write' | 'read',
    id: string,
    task: (isLate: () => boolean) => Promise<T | null>,
  ): Promise<T | null> {
    let late = false;
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<null>((resolve) => {
      timer = setTimeout(() => {
        late = true;
        this.#report(operation, id, Object.assign(new Error(), { code: 'ETIMEDOUT' }));
        resolve(null);
      }, this.timeoutMs).unref();
    });
    try {
      return await Promise.race([this.#track(() => task(() => late)), deadline]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #track<T>(task: () => Promise<T>): Promise<T> {
    const running = task();
    this.#pending.add(running);
    try {
      return await running;
    } finally {
      this.#pending.delete(running);
    }
  }
}

/** `ENOSPC` and the like; of an encoder's or decoder's own errors only the name, for their messages may quote data. */
function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown';
  return 'code' in error && typeof error.code === 'string' ? error.code : error.name;
}

/** Containers of one host have each their own; empty where the system has none. */
function pidNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid').replaceAll(/\D/g, '');
  } catch {
    return '';
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === 'EPERM'; // it runs, under another user
  }
}

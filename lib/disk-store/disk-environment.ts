import { chmodSync, closeSync, mkdirSync, openSync, realpathSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { checkDataFile } from './disk-check.js';
import { cannotOpen, messageOf } from './disk-errors.js';
import type { Database } from './disk-records.js';

const DATA_FILE = 'data.mdb';
const LOCK_FILE = 'lock.mdb';

/** An lmdb environment of this process. */
export interface Environment {
  readonly db: Database;
  /** The directory, without symbolic links. */
  readonly directory: string;
  /** When the last user of it has called this, it is closed. */
  release(): Promise<void>;
}

/**
 * One environment per directory, however many stores of this process use it: lmdb's locks belong to the process, and
 * closing one of two environments over a file would drop those of the other.
 */
const environments = new Map<string, { readonly opening: Promise<Database>; users: number }>();

/** @throws {SessionStoreUnavailableError} naming the path and what to do */
export async function openEnvironment(path: string): Promise<Environment> {
  const lmdb = await loadLmdb(path);
  const directory = prepare(path);
  const known = environments.get(directory) ?? { opening: openDatabase(lmdb, directory), users: 0 };
  environments.set(directory, known);
  known.users++;
  const release = async () => {
    if (--known.users > 0) return;
    environments.delete(directory);
    await (await known.opening).close();
  };
  try {
    return { db: await known.opening, directory, release };
  } catch (error) {
    if (--known.users === 0) environments.delete(directory);
    throw error;
  }
}

async function loadLmdb(path: string): Promise<typeof import('lmdb')> {
  try {
    return await import('lmdb');
  } catch (cause) {
    const detail = `DiskSessionStore needs the package "lmdb", which cannot be loaded (${messageOf(cause)})`;
    throw cannotOpen(path, detail, 'Run: npm install lmdb', cause);
  }
}

/** A directory and files that nobody else on the machine may read. */
function prepare(path: string): string {
  try {
    mkdirSync(resolve(path), { recursive: true, mode: 0o700 });
    const directory = realpathSync(path);
    for (const name of [DATA_FILE, LOCK_FILE]) {
      const file = join(directory, name);
      // lmdb takes an empty file as a new one, and would itself make them readable for all.
      closeSync(openSync(file, 'a', 0o600));
      if ((statSync(file).mode & 0o777) !== 0o600) chmodSync(file, 0o600);
    }
    return directory;
  } catch (cause) {
    throw cannotOpen(path, messageOf(cause), 'Give a directory that this process may write to.', cause);
  }
}

async function openDatabase({ open }: typeof import('lmdb'), directory: string): Promise<Database> {
  try {
    checkDataFile(join(directory, DATA_FILE));
    const options = {
      path: directory,
      noSubdir: false, // otherwise a path with a dot in it would be a file
      encoding: 'string' as const,
      // After kill -9 the last committed state, whatever LMDB_RESTORE says; after a power cut the last flushed one.
      safeRestore: false,
      // With it, lmdb has promises that nobody can handle, and a full disk would end the process over one.
      eventTurnBatching: false,
    };
    return open<string, string>(options);
  } catch (cause) {
    const advice =
      'Restore it from a backup, or move the directory away: everybody has to sign in again then.';
    throw cannotOpen(directory, `${DATA_FILE} cannot be read (${messageOf(cause)})`, advice, cause);
  }
}

import { randomBytes } from 'node:crypto';
import { closeSync, openSync, rmSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { cannotOpen, messageOf } from './disk-errors.js';
import { KEYS } from './disk-keys.js';
import type { Database } from './disk-records.js';

/** A store that has the file open. */
interface Opener {
  /** Of its socket; never used again. */
  readonly name: string;
  /** For people only: containers may share a file and have the same process ids. */
  readonly pid: number;
  readonly shared: boolean;
}

/** What the operating system takes as the path of a socket, in bytes, less what we put behind it. */
const LONGEST_SOCKET_PATH = 100;

/**
 * Says that this store has the file open, alone or with others; refused while a living one says otherwise.
 *
 * Each opener listens on a socket of its own, which the kernel closes when the process ends however it ends: so what
 * kill -9 leaves behind is known to be dead at once, and a process id that was given anew is not taken for alive. The
 * list of openers changes only if it is still the one whose members were asked: a dead one never comes alive again.
 *
 * @returns says that it is no longer open
 * @throws {SessionStoreUnavailableError} naming the path, the process, and what to do
 */
export async function joinOpeners(
  db: Database,
  directory: string,
  shared: boolean,
): Promise<() => Promise<void>> {
  const me: Opener = { name: `open-${randomBytes(8).toString('hex')}`, pid: process.pid, shared };
  const socket = await listen(directory, me.name);
  try {
    for (;;) {
      db.resetReadTxn();
      const text = db.get(KEYS.openers) ?? '[]';
      const openers = JSON.parse(text) as Opener[];
      const living = await Promise.all(openers.map(({ name }) => answers(socket.addressOf(name))));
      const others = openers.filter((_, i) => living[i]);
      const blocker = others.find((other) => !shared || !other.shared);
      if (blocker !== undefined) throw inUse(directory, blocker, shared);
      if (!(await replace(db, text, [...others, me]))) continue;
      for (const { name } of openers.filter((_, i) => !living[i])) socket.remove(name);
      break;
    }
  } catch (error) {
    await socket.close();
    throw error;
  }
  return async () => {
    try {
      await leave(db, me);
    } finally {
      await socket.close();
    }
  };
}

async function leave(db: Database, { name: mine }: Opener): Promise<void> {
  for (;;) {
    db.resetReadTxn();
    const text = db.get(KEYS.openers) ?? '[]';
    const rest = (JSON.parse(text) as Opener[]).filter(({ name }) => name !== mine);
    if (await replace(db, text, rest)) return;
  }
}

/** Compare and set. */
function replace(db: Database, expected: string, openers: readonly Opener[]): Promise<boolean> {
  return db.childTransaction(() => {
    if ((db.get(KEYS.openers) ?? '[]') !== expected) return false;
    void db.put(KEYS.openers, JSON.stringify(openers));
    return true;
  });
}

function inUse(directory: string, { pid, shared: theirs }: Opener, shared: boolean): Error {
  const how = theirs ? 'shared with others' : 'for itself alone';
  const advice = shared
    ? 'End it, or give it the option shared: true as well.'
    : 'End it, or give every process that opens this path the option shared: true, which turns their near caches off.';
  return cannotOpen(directory, `process ${pid} has it open, ${how}`, advice);
}

/** A socket that tells as long as this process lives that it does. */
async function listen(directory: string, mine: string) {
  const handle = openSync(directory, 'r');
  const isLong = Buffer.byteLength(join(directory, `${mine}.sock`)) > LONGEST_SOCKET_PATH;
  const base = isLong && process.platform === 'linux' ? `/proc/self/fd/${handle}` : directory;
  const addressOf = (name: string) =>
    process.platform === 'win32' ? `\\\\.\\pipe\\sessionkit-${name}` : join(base, `${name}.sock`);
  const remove = (name: string) => rmSync(join(directory, `${name}.sock`), { force: true });
  const server: Server = createServer((client) => client.destroy()).unref();
  try {
    await new Promise<void>((done, fail) => {
      server.once('error', fail);
      // exclusive: in a worker of node:cluster the primary must not hold the socket for it.
      server.listen({ path: addressOf(mine), exclusive: true }, done);
    });
  } catch (cause) {
    closeSync(handle);
    const advice = 'Give a shorter path, on a local disk that can hold sockets.';
    throw cannotOpen(directory, `no socket can be made in it (${messageOf(cause)})`, advice, cause);
  }
  const close = async () => {
    await new Promise((done) => server.close(done));
    remove(mine);
    closeSync(handle);
  };
  return { addressOf, remove, close };
}

/** Whether a process listens there; one that is stopped does. */
function answers(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const client = connect(address);
    client.once('connect', () => {
      client.destroy();
      resolve(true);
    });
    client.once('error', ({ code }: NodeJS.ErrnoException) =>
      resolve(code !== 'ECONNREFUSED' && code !== 'ENOENT'),
    );
  });
}

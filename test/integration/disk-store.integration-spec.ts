import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { open } from 'lmdb';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { encodeUser, KEYS } from '../../lib/disk-store/disk-keys.js';
import { DiskRecords, entryOf, type Database } from '../../lib/disk-store/disk-records.js';
import { DiskSessionStore } from '../../lib/disk-store/index.js';
import { NodeWorker } from '../support/node-worker.js';
import { newSession } from '../../lib/testing/kit.js';
import { waitFor } from '../support/wait-for.js';

const WORKER = new URL('./workers/disk-worker.mjs', import.meta.url);

// Each test starts processes, which takes a slow machine its time.
vi.setConfig({ testTimeout: 150_000 });

let home: string;
let path: string;
const workers: NodeWorker[] = [];

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'sessionkit-disk-'));
  path = join(home, 'sessions');
});

afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.kill()));
  rmSync(home, { recursive: true });
});

async function startWorker(): Promise<NodeWorker> {
  const worker = await NodeWorker.start(WORKER);
  workers.push(worker);
  return worker;
}

/** Every key of the file, and which ones its records ask for: they must be the same. */
async function keysOf(directory: string) {
  const db: Database = open<string, string>({
    path: directory,
    noSubdir: false,
    encoding: 'string',
  } as never);
  try {
    const records = new DiskRecords(db, (id) => {
      throw new Error(`the record of session ${id} cannot be read`);
    });
    const found = Array.from(db.getKeys()).filter((key) => !key.startsWith('m:') && !key.startsWith('e:'));
    const wanted = found.flatMap((key) => {
      if (!key.startsWith('r:')) return [];
      const record = records.read(key.slice(2))!;
      const { id, deadline, lastAccess, userId } = entryOf(record);
      const indexes = [key, KEYS.activity(lastAccess, id), KEYS.deadline(deadline, id)];
      if (userId === null) return indexes;
      expect(records.ofUser(userId)).toContainEqual(entryOf(record));
      return [...indexes, KEYS.user(encodeUser(userId), id)];
    });
    return { found: found.sort(), wanted: wanted.sort() };
  } finally {
    await db.close();
  }
}

describe('DiskSessionStore at kill -9', () => {
  it('12 kills of a process that writes all the time: what was acknowledged is there, indexes agree with records, the next process opens at once', async () => {
    const acked = new Map<string, number>();
    const ending = new Set<string>();
    const ended = new Set<string>();
    let live = 0;
    let next = startWorker();
    for (let round = 0; round < 12; round++) {
      const worker = await next;
      if (round < 11) next = startWorker(); // loads while this one is killed and what it left is looked at
      await worker.call('open', { path });
      await worker.call('writeForEver', `round${round}`, 8);
      await worker.event('acked', { timeoutMs: 20_000 });
      await sleep(Math.random() * 150); // any moment will do
      await worker.kill();
      for (const { event, id, n } of worker.events as unknown as { event: string; id: string; n: number }[]) {
        if (event === 'acked') acked.set(id, n);
        if (event === 'ending') ending.add(id);
        if (event === 'ended') ended.add(id);
      }
      const store = new DiskSessionStore({ path });
      await store.open();
      for (const [id, n] of acked) {
        const loaded = await store.get(id);
        if (ended.has(id)) expect(loaded, id).toBeNull();
        else if (!ending.has(id)) {
          const data = JSON.parse(loaded!.record.data) as { n: number; fill?: string };
          // The step after the last acknowledged one may have been made as well, as a whole.
          expect([n, n + 1]).toContain(data.n);
          expect(data.fill?.length ?? 0).toBe(data.n * 900);
        }
      }
      live = await store.length(); // none at all, perhaps, where all writers had just ended their first
      let listed = 0;
      for await (const _ of store.all()) listed++;
      expect(listed).toBe(live);
      await store.close();
      const { found, wanted } = await keysOf(path);
      expect(found).toEqual(wanted);
    }
    expect(live).toBeGreaterThan(0);
    expect(acked.size).toBeGreaterThan(50);
    expect(ended.size).toBeGreaterThan(5);
  });

  it('of two processes that share a path, one is killed while both write: the other goes on, and nothing acknowledged is lost', async () => {
    const [killed, other] = [await startWorker(), await startWorker()];
    await killed.call('open', { path, shared: true });
    await other.call('open', { path, shared: true });
    await killed.call('writeForEver', 'killed', 4);
    await other.call('writeForEver', 'other', 4);
    await waitFor(() => [killed, other].every((worker) => worker.events.length > 50), { timeoutMs: 30_000 });
    await killed.kill();
    const before = other.events.length;
    await waitFor(() => other.events.length > before + 50, { timeoutMs: 30_000 });
    await other.kill();
    const store = new DiskSessionStore({ path });
    await store.open();
    for (const { events } of [killed, other]) {
      const ending = new Set(events.filter(({ event }) => event === 'ending').map(({ id }) => id));
      for (const { event, id } of events)
        if (event === 'acked' && !ending.has(id)) expect(await store.get(id as string)).not.toBeNull();
    }
    await store.close();
    const { found, wanted } = await keysOf(path);
    expect(found).toEqual(wanted);
  });

  it('versions go on growing after a restart, though the clock went back', async () => {
    const clock = { now: Date.now(), wall: () => clock.now };
    const first = new DiskSessionStore({ path, clock });
    await first.open();
    const session = newSession();
    const one = await first.create(session);
    await first.destroy(session.id);
    await first.close();
    clock.now -= 3_600_000;
    const second = new DiskSessionStore({ path, clock });
    await second.open();
    const two = await second.create(session);
    await second.close();
    if (one.status !== 'created' || two.status !== 'created') throw new Error('not created');
    expect(two.record.version).toBeGreaterThan(one.record.version);
  });
});

describe('DiskSessionStore in several processes', () => {
  it('a second process is refused with path, process id and fix, and admitted once the first has been killed', async () => {
    const [first, second] = [await startWorker(), await startWorker()];
    await first.call('open', { path });
    for (const shared of [false, true]) {
      const refused = expect(second.call('open', { path, shared })).rejects;
      await refused.toThrow(path);
      await expect(second.call('open', { path, shared })).rejects.toThrow(`process ${first.pid}`);
      await expect(second.call('open', { path, shared })).rejects.toThrow('shared: true');
    }
    await first.kill();
    await second.call('open', { path });
    expect(await second.call('length')).toBe(0);
  });

  it('a frozen process keeps its hold; one that wants the path alone is refused while others share it', async () => {
    const [first, second] = [await startWorker(), await startWorker()];
    await first.call('open', { path, shared: true });
    await expect(second.call('open', { path })).rejects.toThrow(/shared with others.*shared: true/s);
    await second.call('open', { path, shared: true });
    await second.call('close');
    first.pause();
    await expect(second.call('open', { path })).rejects.toThrow(`process ${first.pid}`);
    first.resume();
    await first.call('close');
    await second.call('open', { path });
  });

  it('a path too long for a socket works as any other', async () => {
    path = join(home, 'x'.repeat(120));
    const [first, second] = [await startWorker(), await startWorker()];
    await first.call('open', { path });
    await expect(second.call('open', { path })).rejects.toThrow(`process ${first.pid}`);
    await first.call('close');
    expect(readdirSync(path).sort()).toEqual(['data.mdb', 'lock.mdb']);
    await second.call('open', { path });
  });

  it('100 increments in each of two processes add up to 200, and each reads what the other wrote', async () => {
    const [one, two] = [await startWorker(), await startWorker()];
    // The increments of a process queue up, and every one waits for the disk.
    await one.call('boot', { path, shared: true }, { commandTimeout: '50s' });
    await two.call('boot', { path, shared: true }, { commandTimeout: '50s' });
    const token = await one.call<string>('create', { n: 0 });
    await Promise.all([one.call('increment', token, 100), two.call('increment', token, 100)]);
    for (const worker of [one, two]) expect(await worker.call('data', token)).toMatchObject({ n: 200 });
  });

  it('what expired is told once, though two processes sweep at once', async () => {
    const [one, two] = [await startWorker(), await startWorker()];
    await one.call('open', { path, shared: true });
    await two.call('open', { path, shared: true });
    await one.call('createMany', 'short', 900, { idleTimeout: 1 });
    await one.call('createMany', 'long', 10, {});
    const told = await Promise.all([one.call<string[]>('sweep'), two.call<string[]>('sweep')]);
    expect(told.flat().sort()).toEqual(Array.from({ length: 900 }, (_, i) => `short-${i}`).sort());
    expect(await two.call('sweep')).toEqual([]);
    expect(await two.call('length')).toBe(10);
  });

  it.each(['evict', 'reject'] as const)(
    'two processes at once keep to the limit of a user (%s)',
    async (policy) => {
      const [one, two] = [await startWorker(), await startWorker()];
      const parts = { userId: 'ann', limit: { max: 5, policy } };
      await one.call('open', { path, shared: true });
      await two.call('open', { path, shared: true });
      const made = await Promise.all([
        one.call<string[]>('createMany', 'one', 40, parts),
        two.call<string[]>('createMany', 'two', 40, parts),
      ]);
      const created = made.flat().filter((status) => status === 'created').length;
      expect(created).toBe(policy === 'evict' ? 80 : 5);
      expect(await one.call('length')).toBe(5);
    },
  );
});

describe('DiskSessionStore where the disk says no', () => {
  it.skipIf(process.platform === 'win32')('directory and files are for this user only', async () => {
    const store = new DiskSessionStore({ path });
    await store.open();
    expect(statSync(path).mode & 0o777).toBe(0o700);
    for (const file of ['data.mdb', 'lock.mdb']) expect(statSync(join(path, file)).mode & 0o777).toBe(0o600);
    await store.close();
  });

  it.skipIf(process.getuid?.() !== 0)(
    'open() of a directory it may not write to names the path',
    async () => {
      const worker = await startWorker();
      mkdirSync(path, { mode: 0o700 });
      await worker.call('becomeNobody');
      await expect(worker.call('open', { path })).rejects.toThrow(path);
      expect(existsSync(join(path, 'data.mdb'))).toBe(false);
    },
  );

  it.skipIf(process.platform !== 'linux')(
    'a file that cannot grow any more: SessionStoreUnavailableError naming the path, and what was acknowledged stays, there and after a restart',
    async () => {
      const worker = await startWorker();
      await worker.call('open', { path });
      await worker.call('surviveFullDisk');
      execFileSync('prlimit', [`--pid=${worker.pid}`, '--fsize=1048576:1048576']);
      const full = await worker.call<{ created: number; name: string; message: string; together: string[] }>(
        'createUntilFull',
        'full',
        20_000,
      );
      expect(full.created).toBeGreaterThan(3);
      expect(full.name).toBe('SessionStoreUnavailableError');
      expect(full.message).toContain(path);
      expect(full.together).toEqual(Array.from({ length: 5 }, () => 'SessionStoreUnavailableError'));
      for (let i = 0; i < full.created; i++) expect(await worker.call('get', `full-${i}`)).not.toBeNull();
      await worker.kill();
      const store = new DiskSessionStore({ path });
      await store.open();
      for (let i = 0; i < full.created; i++) expect(await store.get(`full-${i}`)).not.toBeNull();
      expect((await store.create(newSession())).status).toBe('created');
      await store.close();
      const { found, wanted } = await keysOf(path);
      expect(found).toEqual(wanted);
    },
  );
});

import { execFile } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { open } from 'lmdb';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SessionStoreUnavailableError } from '../../../lib/index.js';
import { DiskSessionStore } from '../../../lib/disk-store/index.js';
import { ManualClock } from '../../support/manual-clock.js';
import { describeSessionStore } from '../../../lib/testing/index.js';
import { mustCreate, newSession } from '../../../lib/testing/kit.js';

const newPath = () => join(mkdtempSync(join(tmpdir(), 'sessionkit-disk-')), 'sessions');

describeSessionStore({ describe, it }, 'DiskSessionStore', async () => {
  const clock = new ManualClock();
  const path = newPath();
  const store = new DiskSessionStore({ path, clock });
  await store.open();
  return {
    store,
    advance: (ms) => clock.advance(ms),
    close: async () => {
      await store.close();
      rmSync(join(path, '..'), { recursive: true });
    },
  };
});

describeSessionStore({ describe, it }, 'DiskSessionStore, shared', async () => {
  const clock = new ManualClock();
  const path = newPath();
  const [store, peer] = [0, 1].map(() => new DiskSessionStore({ path, clock, shared: true })) as [
    DiskSessionStore,
    DiskSessionStore,
  ];
  await Promise.all([store.open(), peer.open()]);
  return {
    store,
    peer,
    advance: (ms) => clock.advance(ms),
    close: async () => {
      await Promise.all([store.close(), peer.close()]);
      rmSync(join(path, '..'), { recursive: true });
    },
  };
});

describe('DiskSessionStore', () => {
  let home: string;
  let path: string;

  beforeEach(() => {
    home = mkdtempSync(join(tmpdir(), 'sessionkit-disk-'));
    path = join(home, 'a', 'path.with.dots');
  });

  afterEach(() => rmSync(home, { recursive: true }));

  it.each([
    ['path', { path: '' }, '""'],
    ['path', {}, 'undefined'],
    ['path', { path: 7 }, '7'],
    ['shared', { path: 'x', shared: 'yes' }, '"yes"'],
    ['timeoutMs', { path: 'x', timeoutMs: 0 }, '0'],
    ['timeoutMs', { path: 'x', timeoutMs: 2 ** 31 }, '2147483648'],
    ['directory', { path: 'x', directory: 'y' }, 'path, shared, timeoutMs'],
  ])('the constructor refuses a wrong %s of %j and names it', (argument, options, said) => {
    const make = () => new DiskSessionStore(options as never);
    expect(make).toThrow(expect.objectContaining({ name: 'SessionArgumentError', argument }));
    expect(make).toThrow(said);
  });

  it('says exclusive only where it is alone', () => {
    expect(new DiskSessionStore({ path }).capabilities.exclusive).toBe(true);
    expect(new DiskSessionStore({ path, shared: true }).capabilities.exclusive).toBe(false);
  });

  it('a closed store is opened again with what was in it, and refuses everything in between', async () => {
    const store = new DiskSessionStore({ path });
    await store.open();
    await store.open();
    const { record } = await mustCreate(store, { userId: 'ann' });
    await store.close();
    await store.close();
    for (const call of [
      () => store.get(record.id),
      () => store.create(newSession()),
      () => store.length(),
      () => store.touch(record.id, 0),
    ])
      await expect(call()).rejects.toThrow(SessionStoreUnavailableError);
    await store.open();
    expect((await store.get(record.id))?.record).toEqual(record);
    await store.close();
  });

  it('a second store in the same process is refused too, until the first is closed', async () => {
    const [first, second] = [new DiskSessionStore({ path }), new DiskSessionStore({ path })];
    await first.open();
    await expect(second.open()).rejects.toThrow(`process ${process.pid}`);
    await mustCreate(first);
    await first.close();
    await second.open();
    expect(await second.length()).toBe(1);
    await second.close();
    expect(readdirSync(path).sort()).toEqual(['data.mdb', 'lock.mdb']);
  });

  it('onChange() hears of each write, end, eviction and expiry once, when it stands, and of nothing after unsubscribing', async () => {
    const clock = new ManualClock();
    const store = new DiskSessionStore({ path, clock });
    await store.open();
    const heard: [string, number][] = [];
    const stop = store.onChange((id, version) => heard.push([id, version]));
    const take = () => heard.splice(0);
    const limit = { max: 1, policy: 'evict' } as const;

    const { record } = await mustCreate(store, { userId: 'ann' });
    expect(take()).toEqual([[record.id, record.version]]);
    const written = await store.set({ base: record, data: 'x', keepExpiry: false });
    if (written.status !== 'written') throw new Error(written.status);
    expect(take()).toEqual([[record.id, written.record.version]]);
    await store.set({ base: record, data: 'conflict', keepExpiry: false });
    await store.touch(record.id, 0);
    expect(take()).toEqual([]);
    const { record: second } = await mustCreate(store, { userId: 'ann', limit });
    expect(take()).toEqual([
      [record.id, Infinity],
      [second.id, second.version],
    ]);
    const next = newSession({ userId: 'ann', idleTimeout: 50 });
    await store.move(second, next);
    expect(take()).toContainEqual([second.id, Infinity]);
    clock.advance(51);
    await store.sweep(
      () => undefined,
      1_000,
      () => false,
    );
    expect(take()).toEqual([[next.id, Infinity]]);
    for (const end of [
      (id: string) => store.destroy(id),
      (id: string) => store.destroyMany([id], 'ann'),
      () => store.clear(),
    ]) {
      const { record: one } = await mustCreate(store);
      take();
      await end(one.id);
      expect(take()).toEqual([[one.id, Infinity]]);
    }
    stop();
    await mustCreate(store);
    expect(heard).toEqual([]);
    await store.close();
  });

  it('sweep() tells each expired session once with its metadata, those whose id was given anew too, and stops when asked', async () => {
    const clock = new ManualClock();
    const store = new DiskSessionStore({ path, clock });
    await store.open();
    const short = { idleTimeout: 50, userId: 'ann', metadata: { label: 'mine' } };
    const ids = await Promise.all(
      Array.from({ length: 450 }, async () => (await mustCreate(store, short)).record.id),
    );
    clock.advance(51);
    await mustCreate(store, { id: ids[0]!, userId: 'ann' });
    expect(await store.destroy(ids[1]!)).toBe(false);
    const told: string[] = [];
    const sweep = (isStopped: () => boolean) =>
      store.sweep(
        ({ id, userId, metadata }) => {
          expect([userId, metadata]).toEqual(['ann', { label: 'mine' }]);
          told.push(id);
        },
        1_000,
        isStopped,
      );
    await sweep(() => true);
    expect(told).toEqual([]);
    await sweep(() => told.length > 0);
    expect(told.length).toBeGreaterThan(0);
    expect(told.length).toBeLessThan(450);
    await sweep(() => false);
    await sweep(() => false);
    expect(told.sort()).toEqual(ids.sort());
    expect(await store.length()).toBe(1);
    await store.close();
  });

  it('a fence that was never released lets go after timeoutMs, and nothing of it is left after the next', async () => {
    const clock = new ManualClock();
    const store = new DiskSessionStore({ path, clock, timeoutMs: 7_000 });
    await store.open();
    const { record } = await mustCreate(store, { userId: 'ann' });
    const rotate = () => store.move(record, newSession({ userId: 'ann' }));
    await store.fence('ann', []);
    clock.advance(6_999);
    expect(await rotate()).toEqual({ status: 'gone' });
    clock.advance(1);
    expect((await rotate()).status).toBe('moved');
    const fence = await store.fence('ann', []);
    await fence.release();
    await store.close();
    const db = open<string, string>({ path, noSubdir: false, encoding: 'string' });
    expect(Array.from(db.getKeys({ start: 'f:', end: 'f;' }))).toEqual([]);
    await db.close();
  });

  describe('a damaged file', () => {
    const cut = (bytes: number) => (file: string) => truncateSync(file, statSync(file).size - bytes);
    it.each<[string, (file: string) => void]>([
      ['of another format', (file) => writeFileSync(file, 'garbage'.repeat(5_000))],
      ['without its beginning', (file) => writeFileSync(file, readFileSync(file).fill(0, 0, 8_192))],
      ['cut off within the first page', (file) => truncateSync(file, 100)],
      ['cut off after the first page', (file) => truncateSync(file, 4_096)],
      ['cut off in the middle', (file) => truncateSync(file, statSync(file).size / 2)],
      ['cut off by ten pages', cut(40_960)],
    ])('%s stops the boot with an error that names the path and the fix', async (_, damage) => {
      const store = new DiskSessionStore({ path });
      await store.open();
      await Promise.all(
        Array.from({ length: 300 }, (_, i) => mustCreate(store, { data: 'x'.repeat(i % 5 ? 300 : 9_000) })),
      );
      await store.close();
      damage(join(path, 'data.mdb'));
      const again = new DiskSessionStore({ path });
      const refused = await again.open().catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(SessionStoreUnavailableError);
      expect((refused as Error).message).toContain(path);
      expect((refused as Error).message).toContain('backup');
    });

    it('a path that is a file, or beneath one, is refused and named', async () => {
      const file = join(home, 'file');
      writeFileSync(file, '');
      for (const wrong of [file, join(file, 'below')])
        await expect(new DiskSessionStore({ path: wrong }).open()).rejects.toThrow(wrong);
    });
  });

  it('without the package lmdb it can be imported and required, and open() says what to install', async () => {
    const root = join(import.meta.dirname, '../../..');
    const modules = join(home, 'node_modules');
    const copy = join(modules, 'nestjs-sessionkit');
    mkdirSync(copy, { recursive: true });
    cpSync(join(root, 'dist'), join(copy, 'dist'), { recursive: true });
    cpSync(join(root, 'package.json'), join(copy, 'package.json'));
    writeFileSync(join(home, 'package.json'), '{}');
    for (const name of readdirSync(join(root, 'node_modules')))
      if (name !== 'lmdb' && !name.startsWith('.') && !existsSync(join(modules, name)))
        symlinkSync(join(root, 'node_modules', name), join(modules, name));
    const use = `new DiskSessionStore({ path: 'sessions' }).open().catch((error) => console.log(error.name, error.message))`;
    const run = async (type: string, load: string) =>
      (
        await promisify(execFile)(process.execPath, [`--input-type=${type}`, '-e', `${load}; ${use}`], {
          cwd: home,
        })
      ).stdout;
    for (const said of [
      await run('module', "import { DiskSessionStore } from 'nestjs-sessionkit/disk-store'"),
      await run('commonjs', "const { DiskSessionStore } = require('nestjs-sessionkit/disk-store')"),
    ]) {
      expect(said).toContain('SessionStoreUnavailableError');
      expect(said).toContain('npm install lmdb');
    }
    expect(existsSync(join(home, 'sessions'))).toBe(false);
  }, 90_000);
});

// sample/04-own-store: the store passes the suite as its author would run it, and the app keeps its sessions on a restart.
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describeSessionStore, newSession } from 'nestjs-sessionkit/testing';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FileSessionStore } from '../../sample/04-own-store/src/file-session.store.js';
import { compileSample, SampleProcess } from './support/sample-process.js';

const SOURCE = new URL('../../sample/04-own-store/src/file-session.store.ts', import.meta.url);
const newDirectory = () => mkdtemp(join(tmpdir(), 'sessionkit-own-store-'));
const remove = (directory: string) => rm(directory, { recursive: true, force: true });

describeSessionStore({ describe, it }, 'FileSessionStore of sample 04-own-store', async () => {
  const directory = await newDirectory();
  const store = new FileSessionStore(directory);
  await store.open();
  const peer = new FileSessionStore(directory);
  return { store, peer, close: () => remove(directory) };
});

describe('FileSessionStore of sample 04-own-store', () => {
  it('has at most 80 lines', async () => {
    const lines = (await readFile(fileURLToPath(SOURCE), 'utf8')).trimEnd().split('\n');
    expect(lines.length).toBeLessThanOrEqual(80);
  });

  it('keeps sessions in files of mode 0600 named by id, and a file that is none of ours is no session', async () => {
    const directory = await newDirectory();
    try {
      const store = new FileSessionStore(join(directory, 'made'));
      await store.open();
      const session = newSession({ userId: 'ann', data: '{"secret":1}' });
      await store.create(session);
      expect(await readdir(join(directory, 'made'))).toEqual([`${session.id}.json`]);
      const { mode } = await stat(join(directory, 'made', `${session.id}.json`));
      expect(mode & 0o777).toBe(0o600);
      const torn = newSession();
      await writeFile(join(directory, 'made', `${torn.id}.json`), '{"id":"');
      await writeFile(join(directory, 'made', 'left-behind.tmp'), 'x');
      expect(await store.get(torn.id)).toBeNull();
      expect(await store.length()).toBe(1);
    } finally {
      await remove(directory);
    }
  });

  it('sweep() removes the files of what has expired', async () => {
    const directory = await newDirectory();
    try {
      const store = new FileSessionStore(directory);
      await store.create(newSession({ idleTimeout: 1 }));
      const live = newSession();
      await store.create(live);
      const told: string[] = [];
      await expect
        .poll(async () => {
          await store.sweep(
            ({ id }) => told.push(id),
            1_000,
            () => false,
          );
          return readdir(directory);
        })
        .toEqual([`${live.id}.json`]);
      expect(told).toHaveLength(1);
    } finally {
      await remove(directory);
    }
  });
});

describe('sample 04-own-store', () => {
  let directory: string;
  beforeAll(async () => {
    directory = await newDirectory();
    compileSample('04-own-store');
  }, 120_000);
  afterAll(async () => {
    await SampleProcess.stopAll();
    await remove(directory);
  });

  it('counts each of 20 views at once, on after a restart too, and forgets whom it is told to', async () => {
    const start = () => SampleProcess.start('04-own-store', { SESSION_DIR: directory });
    let sample = await start();
    const first = await fetch(sample.url);
    const cookie = first.headers.getSetCookie()[0]!.split(';')[0]!;
    const headers = { cookie };
    await Promise.all(Array.from({ length: 20 }, () => fetch(sample.url, { headers })));
    await sample.stop();
    sample = await start();
    expect(await (await fetch(sample.url, { headers })).json()).toEqual({ views: 22 });
    const { status } = await fetch(`${sample.url}/forget`, { method: 'POST', headers });
    expect([status, await readdir(directory)]).toEqual([204, []]);
    expect(await (await fetch(sample.url, { headers })).json()).toEqual({ views: 1 });
    await sample.stop();
  });
});

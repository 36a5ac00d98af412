// The file cache over real processes, a real Redis and a real disk. Shown to fail when a process reads what another has
// left, and when leftovers of dead processes are not removed.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { CacheStats, SessionModuleOptions } from '../../lib/index.js';
import { NodeWorker } from '../support/node-worker.js';
import { RedisServer } from '../support/redis-server.js';
import { uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { openNode, type SessionNode } from './session-node.js';

interface Made {
  n: number;
  token: string;
}

interface Found {
  cache: number;
  store: number;
  absent: number;
  wrong: number;
  errors: unknown[];
  stats: CacheStats;
}

describe('the file cache', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await RedisServer.start();
  });
  afterAll(() => server.stop());

  function newDirectory(): string {
    const directory = mkdtempSync(join(tmpdir(), 'sessionkit-file-cache-'));
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
    return directory;
  }
  async function startProcess(directory: string, keyPrefix: string): Promise<NodeWorker> {
    const worker = await NodeWorker.start(new URL('./workers/file-cache-worker.mjs', import.meta.url));
    onTestFinished(async () => {
      await worker.kill();
    });
    await worker.call('boot', { redis: server.url, keyPrefix, cache: { directory } });
    return worker;
  }
  async function open(options: SessionModuleOptions): Promise<SessionNode> {
    const node = await openNode({ redis: server.url, ...options });
    onTestFinished(() => node.close());
    return node;
  }
  const madeBy = (worker: NodeWorker): Made[] =>
    worker.events.filter(({ event }) => event === 'created').map((event) => event as unknown as Made);
  const filesIn = (directory: string): string[] =>
    readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(directory.length + 1));
  const ofProcess = (directory: string, pid: number): string[] =>
    readdirSync(directory).filter((name) => name.includes(`-${pid}-`));

  it.each([150, 400, 700])(
    'kill -9 after %i of 1,000 writes: the next process serves every session right, and nothing is left',
    async (after) => {
      const directory = newDirectory();
      const keyPrefix = uniquePrefix();
      const first = await startProcess(directory, keyPrefix);
      const creating = first.call('create', 0, 1_000).catch(() => undefined);
      await waitFor(() => madeBy(first).length >= after, { intervalMs: 1 });
      await first.kill();
      await creating;
      const made = madeBy(first);
      expect(made.length).toBeLessThan(1_000);
      expect(filesIn(directory).length).toBeGreaterThan(50);

      const second = await startProcess(directory, keyPrefix);
      await waitFor(() => ofProcess(directory, first.pid).length === 0);
      const found = await second.call<Found>('read', made, 3);
      expect(found).toMatchObject({ wrong: 0, absent: 0, errors: [] });
      expect(found.store).toBeGreaterThanOrEqual(made.length); // none came from what the dead one left
      expect(found.cache).toBeGreaterThan(made.length / 2);
      await second.call('close');
      await second.stop();
      expect(readdirSync(directory)).toEqual([]);
    },
  );

  it('two processes share a directory: each serves what is right, and one that ends leaves the other’s files', async () => {
    const directory = newDirectory();
    const keyPrefix = uniquePrefix();
    const [one, other] = await Promise.all([
      startProcess(directory, keyPrefix),
      startProcess(directory, keyPrefix),
    ]);
    await Promise.all([one.call('create', 0, 100), other.call('create', 100, 200)]);
    const made = [...madeBy(one), ...madeBy(other)];
    expect(made).toHaveLength(200);
    for (const found of await Promise.all([
      one.call<Found>('read', made, 3),
      other.call<Found>('read', made, 3),
    ])) {
      expect(found).toMatchObject({ wrong: 0, absent: 0, errors: [] });
      expect(found.cache).toBeGreaterThan(300);
    }
    await one.call('close');
    await one.stop();
    expect(ofProcess(directory, one.pid)).toEqual([]);
    expect(ofProcess(directory, other.pid)).toHaveLength(1);
    const after = await other.call<Found>('read', made, 2);
    expect(after).toMatchObject({ wrong: 0, absent: 0, errors: [] });
    await other.call('close');
    await other.stop();
  });

  it('a change or an end by another node reaches copies in files at once', async () => {
    const directory = newDirectory();
    const keyPrefix = uniquePrefix();
    const reader = await open({ keyPrefix, cache: { directory } });
    const writer = await open({ keyPrefix });
    const { token } = await writer.sessions.create({ n: 0 });
    for (let n = 1; n <= 20; n++) {
      await reader.sessions.get(token);
      await waitFor(() => filesIn(directory).length === 1);
      expect((await reader.sessions.get(token))?.source).toBe('cache');
      await writer.sessions.update(token, { n });
      await waitFor(async () => (await reader.sessions.get(token))?.data.n === n);
    }
    await writer.sessions.destroy(token);
    await waitFor(async () => (await reader.sessions.get(token)) === null);
    await waitFor(() => filesIn(directory).length === 0);
  });

  it('two modules of one process share a directory without harm', async () => {
    const directory = newDirectory();
    const [one, other] = [
      await open({ keyPrefix: uniquePrefix(), cache: { directory } }),
      await open({ keyPrefix: uniquePrefix(), cache: { directory } }),
    ];
    const made = await Promise.all([one, other].map((node, n) => node.sessions.create({ n })));
    await waitFor(() => filesIn(directory).length === 2);
    for (const [n, node] of [one, other].entries()) {
      expect(await node.sessions.get(made[n]!.token)).toMatchObject({ source: 'cache', data: { n } });
      expect(await node.sessions.get(made[1 - n]!.token)).toBeNull();
    }
    await one.close();
    expect(filesIn(directory)).toHaveLength(1);
    expect(await other.sessions.get(made[1]!.token)).toMatchObject({ source: 'cache', data: { n: 1 } });
    await other.close();
    expect(readdirSync(directory)).toEqual([]);
  });

  it('tokens that want to be paths lead nowhere, and those that are taken are files by their id', async () => {
    const parent = newDirectory();
    const node = await open({
      keyPrefix: uniquePrefix(),
      allowGivenTokens: true,
      cache: { directory: join(parent, 'cache') },
    });
    for (const token of [
      '../../../../etc/passwd',
      'a\0b-0123456789abcdef',
      'x'.repeat(300),
      '/'.repeat(20),
    ]) {
      await expect(node.sessions.create({}, { token })).rejects.toMatchObject({ code: 'SESSION_ARGUMENT' });
      expect(await node.sessions.get(token)).toBeNull();
    }
    const token = `..${'.'.repeat(20)}etc`;
    const { id } = await node.sessions.create({ n: 1 }, { token });
    await waitFor(() => filesIn(parent).length === 1);
    expect(filesIn(parent)[0]).toContain(`/${id}-`);
    expect(filesIn(parent)[0]).not.toContain(token);
    expect((await node.sessions.get(token))?.data).toEqual({ n: 1 });
    expect(readdirSync(parent)).toEqual(['cache']);
  });

  it('cacheError is an event of the module, the boot stops where nothing can be written', async () => {
    const directory = newDirectory();
    const node = await open({ keyPrefix: uniquePrefix(), cache: { directory } });
    const errors: unknown[] = [];
    node.events.on('cacheError', (error) => errors.push(error));
    const { token, id } = await node.sessions.create({ n: 1 });
    await waitFor(() => filesIn(directory).some((name) => !name.endsWith('.new')));
    rmSync(join(directory, filesIn(directory)[0]!));
    // From memory for the moment until the index knows of the file.
    await waitFor(async () => (await node.sessions.get(token))?.source === 'store');
    expect(errors).toEqual([{ operation: 'read', id, code: 'ENOENT' }]);
    await waitFor(() => filesIn(directory).some((name) => !name.endsWith('.new')));
    await expect(
      openNode({ cache: { directory: join(directory, filesIn(directory)[0]!, 'below') } }),
    ).rejects.toMatchObject({ code: 'SESSION_OPTIONS', option: 'cache.directory' });
  });
});

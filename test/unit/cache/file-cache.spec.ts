// Copies in files: what lies on the disk, and what happens when the disk, the encoder or the decoder fails. Shown to fail
// when the index is not asked again after the read, when what the decoder made is not compared, and when files are named
// by token.
import { execFileSync, spawnSync } from 'node:child_process';
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  readlinkSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { FileCache } from '../../../lib/cache/file-cache.js';
import type { SessionRecord } from '../../../lib/core/session-record.interface.js';
import { SessionOptionsError } from '../../../lib/errors/caller.errors.js';
import type { SessionEventMap } from '../../../lib/events/session-events.js';
import type {
  CacheDecoder,
  CacheEncoder,
  SessionModuleOptions,
} from '../../../lib/options/session-options.interface.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { ManualClock } from '../../support/manual-clock.js';
import { waitFor } from '../../support/wait-for.js';
import { deferred, mustLoad, openCore, settled, type Deferred } from '../harness.js';

class ReadCountingStore extends MemorySessionStore {
  reads = 0;
  override get(id: string) {
    this.reads++;
    return super.get(id);
  }
}

function newDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sessionkit-file-cache-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

interface Settings {
  directory?: string;
  encoder?: CacheEncoder;
  decoder?: CacheDecoder;
  options?: SessionModuleOptions;
  timeoutMs?: number;
}

async function open({
  directory = newDirectory(),
  encoder,
  decoder,
  options = {},
  timeoutMs = 1_000,
}: Settings = {}) {
  const errors: SessionEventMap['cacheError'][] = [];
  const files = new FileCache(
    directory,
    encoder ?? JSON.stringify,
    decoder ?? JSON.parse,
    (error) => core.events.emit('cacheError', error),
    timeoutMs,
  );
  const clock = new ManualClock();
  const store = new ReadCountingStore({ clock });
  const core = openCore(options, { clock, store, files });
  core.events.on('cacheError', (error) => errors.push(error));
  await core.cache.open();
  onTestFinished(() => core.cache.close());
  /** Regular files, as paths inside the directory. */
  const list = () =>
    readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name).slice(directory.length + 1));
  const only = () => {
    const paths = list();
    expect(paths).toHaveLength(1);
    return join(directory, paths[0]!);
  };
  /** Nothing is being written, read or removed, nor begun by what has just ended. */
  const quiet = async () => {
    for (let i = 0; i < 3; i++) {
      await files.idle();
      await settled();
    }
  };
  /** A session whose copy lies in its file. */
  const created = async (data: Record<string, unknown> = { n: 1 }) => {
    const { token, id } = await core.sessions.create(data);
    await quiet();
    return { token, id };
  };
  return { ...core, store, directory, files, quiet, errors, list, only, created };
}

describe('FileCache: what lies on the disk', () => {
  it('a copy is a file named by id and version, never by token, and get() reads it', async () => {
    const { created, list, sessions, store, cache } = await open();
    const { token, id } = await created({ name: 'Ada' });
    const [path, ...more] = list();
    expect(more).toEqual([]);
    expect(path).toMatch(new RegExp(`^sessionkit-[A-Za-z0-9.]+-${process.pid}-[\\w-]{12}/\\d+/${id}-\\d+`));
    expect(path).not.toContain(token);
    expect(await sessions.get(token)).toMatchObject({ source: 'cache', data: { name: 'Ada' } });
    expect(store.reads).toBe(0);
    expect(cache.stats()).toMatchObject({ hits: 1, misses: 0, entries: 1 });
  });

  it('nobody but this user can look into it: 0700 and 0600, whatever the umask says', async () => {
    const umask = process.umask(0);
    onTestFinished(() => void process.umask(umask));
    const parent = newDirectory();
    const { created, only, directory } = await open({ directory: join(parent, 'made', 'for', 'us') });
    await created();
    expect(statSync(only()).mode & 0o777).toBe(0o600);
    for (let path = join(only(), '..'); path.length > parent.length; path = join(path, '..'))
      expect([path, statSync(path).mode & 0o777]).toEqual([path, 0o700]);
    expect(directory.startsWith(parent)).toBe(true);
  });

  it('no token stands in a file either', async () => {
    const { created, only } = await open();
    const { token } = await created();
    expect(readFileSync(only(), 'utf8')).not.toContain(token);
  });

  it('stats().bytes are the sizes of the files, and come down to 0 with them', async () => {
    const { created, list, only, cache, quiet } = await open();
    await created({ name: 'Zoë' });
    expect(cache.stats().bytes).toBe(statSync(only()).size);
    await created();
    cache.clear();
    await quiet();
    expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0 });
    expect(list()).toEqual([]);
  });

  it('the copy serves from memory until its file is there, and only once it is there from it', async () => {
    const gates: Deferred<string>[] = [];
    const { sessions, files, only, store, quiet } = await open({
      encoder: () => {
        const gate = deferred<string>();
        gates.push(gate);
        return gate.promise;
      },
    });
    const { token, id } = await sessions.create({ n: 1 });
    expect(await sessions.get(token)).toMatchObject({ source: 'cache', data: { n: 1 } });
    expect(files.writing).toBe(1);
    gates[0]!.resolve(JSON.stringify((await store.get(id))!.record));
    await quiet();
    expect(files.writing).toBe(0);
    store.reads = 0;
    expect(await sessions.get(token)).toMatchObject({ source: 'cache', data: { n: 1 } });
    rmSync(only());
    expect((await sessions.get(token))?.source).toBe('store');
    expect(store.reads).toBe(1);
    gates[1]!.resolve('{}');
  });

  it('at most 256 files are written at once: what comes on top is not kept, and counted as skipped', async () => {
    const gate = deferred<void>();
    const { sessions, cache, files, quiet } = await open({
      encoder: async (record) => {
        await gate.promise;
        return JSON.stringify(record);
      },
      timeoutMs: 60_000, // all of them lie open until the last is there
    });
    for (let i = 0; i < 260; i++) await sessions.create({ i });
    expect(files.writing).toBe(256);
    expect(cache.stats()).toMatchObject({ entries: 256, skippedFills: 4, refusedFills: 0 });
    gate.resolve();
    await quiet();
    expect((await sessions.create()).source).toBe('new');
    expect(cache.stats().entries).toBe(257);
  });

  it('a touch prolongs a copy in a file without writing it again', async () => {
    const { sessions, created, list, clock, store, quiet } = await open({
      options: { cache: { maxAge: '60s' }, idleTimeout: '10s', touchInterval: 0 },
    });
    const { token } = await created();
    const before = list();
    clock.advance(8_000);
    const lastAccess = clock.wall();
    expect(await (await mustLoad(sessions, token)).touch()).toBe(true);
    clock.advance(8_000);
    await quiet();
    expect(await sessions.get(token)).toMatchObject({ source: 'cache', lastAccess });
    expect(list()).toEqual(before);
    expect(store.reads).toBe(0);
  });
});

describe('FileCache: encoder and decoder', () => {
  it('the encoder gets a plain object, as those that take nothing else want it', async () => {
    const prototypes: unknown[] = [];
    const { sessions, quiet } = await open({
      encoder: (record) => {
        prototypes.push(Object.getPrototypeOf(record));
        return JSON.stringify(record);
      },
    });
    await sessions.create({ name: 'Ada' });
    await quiet();
    expect(prototypes).toHaveLength(1);
    expect(prototypes[0]).toBe(Object.prototype);
  });

  const key = randomBytes(32);
  const encrypt = async (record: SessionRecord) => {
    const iv = randomBytes(12);
    const cipher = createCipheriv('aes-256-gcm', key, iv);
    const body = Buffer.concat([cipher.update(JSON.stringify(record)), cipher.final()]);
    return Buffer.concat([iv, cipher.getAuthTag(), body]);
  };
  const decrypt = async (body: string | Buffer) => {
    if (typeof body === 'string') throw new TypeError('bytes were written, text is read');
    const decipher = createDecipheriv('aes-256-gcm', key, body.subarray(0, 12));
    decipher.setAuthTag(body.subarray(12, 28));
    return JSON.parse(decipher.update(body.subarray(28)).toString() + decipher.final().toString()) as unknown;
  };

  it('may be asynchronous and binary: an encrypted file comes back as the session, with metadata and dates', async () => {
    const { sessions, only, store, quiet } = await open({ encoder: encrypt, decoder: decrypt });
    const at = new Date(0);
    const { token } = await sessions.create(
      { name: 'Zoë', at },
      { metadata: { ip: '::1', label: 'Läptop' } },
    );
    await quiet();
    expect(readFileSync(only(), 'latin1')).not.toMatch(/Zo|ptop|::1/);
    const session = await sessions.get(token);
    expect(session).toMatchObject({ source: 'cache', data: { name: 'Zoë', at } });
    expect(session?.metadata).toEqual({ ip: '::1', label: 'Läptop' });
    expect(Object.isFrozen(session?.metadata)).toBe(true);
    expect(store.reads).toBe(0);
  });

  it('any bytes an encoder may return come back to the decoder as they were', async () => {
    const all = Uint8Array.from({ length: 256 }, (_, i) => i);
    let body: string | Buffer = '';
    let kept: SessionRecord | undefined;
    const { sessions, created } = await open({
      encoder: (record) => {
        kept = record;
        return all;
      },
      decoder: (encoded) => {
        body = encoded;
        return kept;
      },
    });
    const { token } = await created();
    expect((await sessions.get(token))?.source).toBe('cache');
    expect(Buffer.isBuffer(body)).toBe(true);
    expect(Buffer.compare(body as unknown as Buffer, all)).toBe(0);
  });

  const wrongEncoders: [string, CacheEncoder, string][] = [
    [
      'throws',
      () => {
        throw new RangeError('the secret is 42');
      },
      'RangeError',
    ],
    ['rejects', async () => Promise.reject(Object.assign(new Error('x'), { code: 'EKEY' })), 'EKEY'],
    [
      'throws a string',
      () => {
        throw 'the secret is 42' as unknown as Error;
      },
      'unknown',
    ],
    ['returns nothing', () => undefined as unknown as string, 'TypeError'],
    ['returns an object', () => ({}) as unknown as string, 'TypeError'],
    ['resolves to a number', async () => 5 as unknown as string, 'TypeError'],
  ];
  it.each(wrongEncoders)(
    'an encoder that %s: cacheError with a code, no file, and the store answers',
    async (_how, encoder, code) => {
      const { sessions, errors, list, store, cache, quiet } = await open({ encoder });
      const { token, id } = await sessions.create({ n: 1 });
      await quiet();
      expect(errors).toEqual([{ operation: 'write', id, code }]);
      expect(list()).toEqual([]);
      expect(await sessions.get(token)).toMatchObject({ source: 'store', data: { n: 1 } });
      expect(store.reads).toBe(1);
      await quiet();
      expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0 });
    },
  );

  const other =
    (record: Partial<SessionRecord>): CacheDecoder =>
    (body) => ({ ...(JSON.parse(body.toString()) as object), ...record });
  const wrongDecoders: [string, CacheDecoder, string][] = [
    [
      'throws',
      () => {
        throw new RangeError('the secret is 42');
      },
      'RangeError',
    ],
    ['rejects', async () => Promise.reject(new Error('no')), 'Error'],
    ['returns another session’s data', other({ data: '{"admin":true}' }), 'EBADBODY'],
    ['returns other metadata', other({ metadata: { label: 'x' } }), 'EBADBODY'],
    ['returns an object without data', () => ({}), 'EBADBODY'],
    ['returns text', () => 'text', 'EBADBODY'],
    ['returns a number', async () => 5, 'EBADBODY'],
    ['returns an array', () => [], 'EBADBODY'],
    ['returns data that is no text', () => ({ metadata: {}, data: { n: 1 } }), 'EBADBODY'],
    ['returns undefined', () => undefined, 'EBADBODY'],
    ['returns null', () => null, 'EBADBODY'],
  ];
  it.each(wrongDecoders)(
    'a decoder that %s: cacheError, a miss, and the store answers',
    async (_how, decoder, code) => {
      const { sessions, errors, created, store, cache } = await open({ decoder });
      const { token, id } = await created();
      expect(await sessions.get(token)).toMatchObject({ source: 'store', data: { n: 1 } });
      expect(errors).toEqual([{ operation: 'read', id, code }]);
      expect(store.reads).toBe(1);
      expect(cache.stats()).toMatchObject({ hits: 0, misses: 1 });
    },
  );

  it('a decoder that changes id, version, user or deadline changes nothing: those stand in the index', async () => {
    const { sessions, created } = await open({
      decoder: other({ id: 'x', version: 99, userId: 'root', idleTimeout: 0, createdAt: 1 }),
    });
    const { token, id } = await created();
    const session = await mustLoad(sessions, token);
    expect(session).toMatchObject({ id, userId: null, idleTimeout: 30 * 60_000, source: 'cache' });
    expect(session.createdAt).not.toBe(1);
  });
});

describe('FileCache: files that are not what was written', () => {
  const damage: [string, (path: string) => void, string][] = [
    ['truncated', (path) => writeFileSync(path, readFileSync(path).subarray(0, 20)), 'SyntaxError'],
    ['emptied', (path) => writeFileSync(path, ''), 'SyntaxError'],
    [
      'edited',
      (path) => writeFileSync(path, readFileSync(path, 'utf8').replace('\\"n\\":1', '\\"n\\":2')),
      'EBADBODY',
    ],
    ['replaced by other JSON', (path) => writeFileSync(path, 'null'), 'EBADBODY'],
    ['deleted', (path) => rmSync(path), 'ENOENT'],
    [
      'made unreadable',
      (path) => {
        rmSync(path);
        mkdirSync(path);
      },
      'EISDIR',
    ],
  ];
  it.each(damage)(
    'one that was %s is a miss and a cacheError; the store answers, and a new copy is kept',
    async (_what, harm, code) => {
      const { sessions, errors, created, only, store, cache, quiet } = await open();
      const { token, id } = await created();
      harm(only());
      expect(await sessions.get(token)).toMatchObject({ source: 'store', data: { n: 1 } });
      expect(errors).toContainEqual({ operation: 'read', id, code });
      expect(store.reads).toBe(1);
      expect(cache.stats()).toMatchObject({ hits: 0, misses: 1 });
      await quiet();
      // What cannot be removed or replaced (a directory in its place) is an error again, and nothing worse.
      if (code !== 'EISDIR')
        expect(await sessions.get(token)).toMatchObject({ source: 'cache', data: { n: 1 } });
      expect((await sessions.get(token))?.data).toEqual({ n: 1 });
    },
  );

  it('the error names neither token nor data', async () => {
    const { sessions, errors, created, only } = await open();
    const { token } = await created({ secret: 'hunter2' });
    writeFileSync(only(), '{"data": hunter2');
    await sessions.get(token);
    expect(JSON.stringify(errors)).not.toMatch(/hunter2/);
    expect(JSON.stringify(errors)).not.toContain(token);
  });

  it('a directory removed under a running process is made again by the next copy', async () => {
    const { sessions, errors, created, directory, list, store, quiet } = await open();
    const { token } = await created();
    rmSync(directory, { recursive: true });
    expect((await sessions.get(token))?.source).toBe('store');
    await quiet();
    expect(list()).toHaveLength(1);
    store.reads = 0;
    expect((await sessions.get(token))?.source).toBe('cache');
    expect(store.reads).toBe(0);
    expect(errors.map(({ operation, code }) => [operation, code])).toEqual([['read', 'ENOENT']]);
  });

  it('a disk that is full is a cacheError, and every session is served all the same', async (context) => {
    const directory = newDirectory();
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory]).status !== 0)
      return context.skip('a tiny file system cannot be mounted here (needs root)');
    onTestFinished(() => void execFileSync('umount', ['-l', directory]));
    const { sessions, errors, list, store, quiet } = await open({ directory });
    const made = [];
    for (let i = 0; i < 40; i++) {
      made.push(await sessions.create({ i, fill: 'x'.repeat(4_000) }));
      await quiet();
    }
    expect(errors.length).toBeGreaterThan(10);
    expect(new Set(errors.map(({ operation, code }) => `${operation} ${code}`))).toEqual(
      new Set(['write ENOSPC']),
    );
    // Half-written ones were removed: what is there is whole.
    expect(list().length).toBeGreaterThan(3);
    expect(list().every((path) => statSync(join(directory, path)).size > 4_000)).toBe(true);
    for (const [i, { token }] of made.entries()) expect((await sessions.get(token))?.data.i).toBe(i);
    expect(store.reads).toBeLessThan(40);
  });
});

describe('FileCache: the index is asked again after the read (rule 10)', () => {
  const openSlow = async () => {
    const reads: Deferred<void>[] = [];
    const world = await open({
      decoder: async (body) => {
        const gate = deferred<void>();
        reads.push(gate);
        await gate.promise;
        return JSON.parse(body.toString()) as unknown;
      },
    });
    const { token, id } = await world.created({ n: 1 });
    const reading = world.sessions.get(token);
    await waitFor(() => reads.length === 1);
    return { ...world, token, id, reading, finish: () => reads.shift()!.resolve() };
  };

  it('nothing happened meanwhile: the copy is served', async () => {
    const { reading, finish } = await openSlow();
    finish();
    expect(await reading).toMatchObject({ source: 'cache', data: { n: 1 } });
  });

  const meanwhile: Record<string, (world: Awaited<ReturnType<typeof openSlow>>) => unknown> = {
    'an invalidation': ({ source, id }) => source.announce(id, Number.MAX_SAFE_INTEGER),
    'the end of the session': ({ source, id }) => source.announce(id, Infinity),
    'a new epoch': ({ source }) => source.epoch++,
    'the loss of the lease': ({ source }) => (source.live = false),
    'clear()': ({ cache }) => cache.clear(),
    'its deadline': ({ clock }) => clock.advance(60_000),
    'a write of this process': ({ cache, id }) => cache.release(cache.reserveForWrite(id)),
  };
  it.each(Object.entries(meanwhile))(
    '%s came while the file was decoded: the store answers',
    async (_what, happen) => {
      const world = await openSlow();
      happen(world);
      world.finish();
      expect(await world.reading).toMatchObject({ source: 'store', data: { n: 1 } });
      expect(world.store.reads).toBe(1);
      expect(world.cache.stats()).toMatchObject({ hits: 0, misses: 1 });
      expect(world.errors).toEqual([]);
    },
  );

  it('the session was ended while the file was decoded: it is not served', async () => {
    const { sessions, store, source, id, token, reading, finish } = await openSlow();
    await store.destroy(id);
    source.announce(id, Infinity);
    finish();
    expect(await reading).toBeNull();
    expect(await sessions.get(token)).toBeNull();
  });
});

describe('FileCache: files go with their copies', () => {
  it('on eviction', async () => {
    const { created, list, quiet } = await open({ options: { cache: { maxEntries: 2 } } });
    const ids = [];
    for (let i = 0; i < 4; i++) ids.push((await created()).id);
    await quiet();
    expect(
      list()
        .map((path) => path.split('/')[2]!.slice(0, 23))
        .toSorted(),
    ).toEqual(ids.slice(2).toSorted());
  });

  it('on invalidation, destroy(), a write and clear(), also while they are being written', async () => {
    const { sessions, list, source, cache, errors, quiet } = await open();
    for (const wait of [true, false]) {
      const made = [];
      for (let i = 0; i < 5; i++) made.push(await sessions.create({ i }));
      if (wait) await quiet();
      source.announce(made[0]!.id, Infinity);
      await made[1]!.destroy();
      await sessions.update(made[2]!.token, { i: 22 });
      await sessions.regenerate(made[3]!.token);
      await quiet();
      expect(list()).toHaveLength(3);
      for (let i = 0; i < 3; i++) void sessions.create({ i });
      cache.clear();
      await settled();
      await quiet();
      cache.clear();
      await quiet();
      expect(list()).toEqual([]);
    }
    expect(errors).toEqual([]);
  });

  it('a copy whose file is read while it is replaced many times over is always served right', async () => {
    const { sessions, errors, list, quiet } = await open();
    const { token } = await sessions.create({ n: 0 });
    let last = 0;
    for (let n = 1; n <= 100; n++) {
      const [, ...seen] = await Promise.all([
        sessions.update(token, { n }),
        sessions.get(token),
        sessions.get(token, { fresh: true }),
      ]);
      for (const session of seen) expect(session?.data.n).toBeOneOf([last, n]);
      expect((await sessions.get(token))?.data.n).toBe(n);
      last = n;
      if (n % 10 === 0) await quiet(); // or more files would be under way than are written at once
    }
    await quiet();
    expect(list()).toHaveLength(1);
    expect(errors).toEqual([]);
  });

  it('two fills of one version leave one file, which is served: the first write must not take it away', async () => {
    // The first write is the slower one, so that it ends after the file of the second is in its place.
    const gate = deferred<void>();
    let encoded = 0;
    const { sessions, files, quiet, errors, list, store } = await open({
      encoder: async (record) => {
        if (++encoded === 1) await gate.promise;
        return JSON.stringify(record);
      },
    });
    const { token } = await sessions.create({ n: 1 });
    await sessions.get(token, { fresh: true });
    await waitFor(() => files.writing === 1);
    gate.resolve();
    await quiet();
    expect(list()).toHaveLength(1);
    store.reads = 0;
    expect((await sessions.get(token))?.source).toBe('cache');
    expect(store.reads).toBe(0);
    expect(errors).toEqual([]);
  });

  it('a touch while the file is being written, and one while it is being read: the copy is served from the file', async () => {
    const [writing, reading] = [deferred<void>(), deferred<void>()];
    const { sessions, cache, clock, files, directory, quiet, errors, list, store } = await open({
      encoder: async (record) => {
        await writing.promise;
        return JSON.stringify(record);
      },
      decoder: async (text) => {
        await reading.promise;
        return JSON.parse(text as string);
      },
    });
    const { token } = await sessions.create({ n: 1 });
    const { version } = cache.peek(token)!;
    const touch = () => {
      clock.advance(1_000);
      cache.refresh(token, clock.monotonic(), { version, lastAccess: clock.wall(), now: clock.wall() });
    };
    await waitFor(() => files.writing === 1);
    touch();
    expect(cache.peek(token)?.lastAccess).toBe(clock.wall());
    writing.resolve();
    await waitFor(() => cache.peek(token) === undefined);
    expect(list()).toHaveLength(1);
    expect(cache.stats().bytes).toBe(statSync(join(directory, list()[0]!)).size);
    store.reads = 0;
    const got = sessions.get(token);
    touch();
    reading.resolve();
    expect(await got).toMatchObject({ source: 'cache', data: { n: 1 }, lastAccess: clock.wall() });
    await quiet();
    expect([list().length, store.reads, errors]).toEqual([1, 0, []]);
  });

  it('clear() and a read of the same version while the file is being written: that one’s file is never the new copy’s', async () => {
    const gates = [deferred<void>(), deferred<void>()];
    let encoded = 0;
    const { sessions, cache, files, quiet, errors, list, store } = await open({
      encoder: async (record) => {
        await gates[encoded++]?.promise;
        return JSON.stringify(record);
      },
    });
    const { token } = await sessions.create({ n: 1 });
    await waitFor(() => files.writing === 1);
    cache.clear();
    await sessions.get(token);
    await waitFor(() => files.writing === 2);
    gates[0]!.resolve();
    await waitFor(() => files.writing === 1);
    expect(cache.peek(token)).toBeDefined(); // it still waits for its own
    gates[1]!.resolve();
    await quiet();
    store.reads = 0;
    expect((await sessions.get(token))?.source).toBe('cache');
    expect([list().length, store.reads, errors]).toEqual([1, 0, []]);
  });

  it('a newer copy while the file is being read: what the old file holds is never served as the new copy’s', async () => {
    const reading = deferred<void>();
    const { sessions, created, cache, store, quiet, list, errors } = await open({
      decoder: async (text) => {
        await reading.promise;
        return JSON.parse(text as string);
      },
    });
    const { token, id } = await created({ n: 1 });
    const got = sessions.get(token);
    const { record: base } = (await store.get(id))!;
    const written = await store.set({ base, data: '{"n":2}', keepExpiry: false });
    if (written.status !== 'written') throw new Error(written.status);
    cache.set(cache.reserve(id), token, written);
    reading.resolve();
    expect((await got)?.data).toEqual({ n: 2 });
    await quiet();
    expect([list().length, errors]).toEqual([1, []]);
  });

  it('a read in a new epoch puts another file in the place of the old one', async () => {
    const { sessions, source, created, quiet, list, store } = await open();
    const { token } = await created();
    const [old] = list();
    source.epoch++;
    store.reads = 0;
    await sessions.get(token);
    await quiet();
    expect(store.reads).toBe(1);
    expect(list()).toEqual([expect.not.stringContaining(old!)]);
  });

  it('close() removes everything this process wrote, and what lies beside it stays', async () => {
    const directory = newDirectory();
    writeFileSync(join(directory, 'theirs.txt'), 'x');
    const { created, cache, list } = await open({ directory });
    await created();
    await cache.close();
    expect(readdirSync(directory)).toEqual(['theirs.txt']);
    expect(list()).toEqual(['theirs.txt']);
  });

  it('close() while files are being written leaves none', async () => {
    const directory = newDirectory();
    const { sessions, cache } = await open({ directory });
    for (let i = 0; i < 50; i++) await sessions.create({ i });
    await cache.close();
    expect(readdirSync(directory)).toEqual([]);
  });
});

describe('FileCache: directories of others', () => {
  const namespace = readlinkSync('/proc/self/ns/pid').replaceAll(/\D/g, '');
  const host = `${hostname()}.${namespace}`.replaceAll(/[^A-Za-z0-9.]/g, '.');
  const leave = (directory: string, name: string, ageMs = 0) => {
    mkdirSync(join(directory, name, '0'), { recursive: true });
    writeFileSync(join(directory, name, '0', 'left'), 'x');
    const at = new Date(Date.now() - ageMs);
    utimesSync(join(directory, name), at, at);
    return name;
  };
  /** Of a process that has ended. */
  const deadPid = () => spawnSync('true').pid;
  const MINUTE = 60_000;

  it('open() removes those of dead processes of this host, and of others that were silent for over 3 minutes', async () => {
    const directory = newDirectory();
    leave(directory, `sessionkit-${host}-${deadPid()}-abcdefghijkl`);
    leave(directory, `sessionkit-elsewhere.example-1-abcdefghij_-`, 3 * MINUTE + 5_000);
    leave(directory, `sessionkit-${host}-1-abcdefghijkl`, 3 * MINUTE + 5_000); // the pid runs, and is somebody else's by now
    const { quiet } = await open({ directory });
    await quiet();
    expect(readdirSync(directory)).toEqual([expect.stringContaining(`-${process.pid}-`)]);
  });

  it('open() leaves those of live ones, whatever else lies there, and what only looks like them', async () => {
    const directory = newDirectory();
    const kept = [
      leave(directory, `sessionkit-${host}-1-abcdefghijkl`), // pid 1 runs
      leave(directory, `sessionkit-${host}-${process.ppid}-abcdefghijkl`, 2 * MINUTE),
      leave(directory, `sessionkit-elsewhere.example-${deadPid()}-abcdefghijkl`), // not for us to ask
      leave(directory, `sessionkit-elsewhere.example-1-abcdefghijkl`, 2 * MINUTE),
      leave(directory, `sessionkit-${host}-${deadPid()}-short`, 60 * MINUTE),
      leave(directory, `sessionkit-${host}-${deadPid()}-abcdefghijkl.bak`, 60 * MINUTE),
      leave(directory, 'data', 60 * MINUTE),
    ];
    const { quiet } = await open({ directory });
    await quiet();
    expect(
      readdirSync(directory)
        .filter((name) => !name.includes(`-${process.pid}-`))
        .toSorted(),
    ).toEqual(kept.toSorted());
  });

  it('a file of the directory’s name is not followed as one', async () => {
    const directory = newDirectory();
    const outside = newDirectory();
    writeFileSync(join(outside, 'precious'), 'x');
    execFileSync('ln', ['-s', outside, join(directory, `sessionkit-${host}-${deadPid()}-abcdefghijkl`)]);
    const { quiet } = await open({ directory });
    await quiet();
    expect(existsSync(join(outside, 'precious'))).toBe(true);
  });

  it('two caches of one process in one directory keep out of each other', async () => {
    const directory = newDirectory();
    const [one, other] = [await open({ directory }), await open({ directory })];
    await other.quiet();
    const { token } = await one.created({ of: 'one' });
    const { token: second } = await other.created({ of: 'other' });
    expect((await one.sessions.get(token))?.data).toEqual({ of: 'one' });
    expect((await other.sessions.get(second))?.data).toEqual({ of: 'other' });
    expect(await one.sessions.get(second)).toBeNull();
    one.cache.clear();
    await one.cache.close();
    expect(await other.sessions.get(second)).toMatchObject({ source: 'cache', data: { of: 'other' } });
    expect([...one.errors, ...other.errors]).toEqual([]);
  });

  it.each([
    [
      'a file',
      (directory: string) => {
        writeFileSync(join(directory, 'file'), '');
        return join(directory, 'file');
      },
    ],
    [
      'below a file',
      (directory: string) => {
        writeFileSync(join(directory, 'file'), '');
        return join(directory, 'file', 'x');
      },
    ],
  ])('open() rejects for a directory that is %s, naming option and value', async (_what, make) => {
    const directory = make(newDirectory());
    const error = await open({ directory }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SessionOptionsError);
    expect(error).toMatchObject({ option: 'cache.directory' });
    expect((error as Error).message).toContain(directory);
  });
});

describe('FileCache: tokens that want to be paths', () => {
  it('reach no file outside the directory, whether they are accepted or refused', async () => {
    const parent = newDirectory();
    const directory = join(parent, 'cache');
    const { sessions, list, quiet } = await open({ directory, options: { allowGivenTokens: true } });
    const hostile = [
      '../../../../etc/passwd',
      '../../../../../tmp/owned',
      '..%2f..%2f..%2fetc%2fpasswd',
      '/etc/passwd-0123456789',
      'nul\0-in-the-middle-of-it',
      'x'.repeat(300),
      '..\\..\\..\\windows\\system32',
      `file://${parent}/owned`,
      '.',
      '..',
    ];
    for (const token of hostile) {
      await expect(sessions.create({ n: 1 }, { token })).rejects.toThrow(/token/);
      expect(await sessions.get(token)).toBeNull();
      expect(await sessions.destroy(token)).toBe(false);
    }
    const odd = [
      '.'.repeat(16),
      `${'..'.repeat(8)}-etc-passwd`,
      '~'.repeat(20),
      'x'.repeat(128),
      '-rf.-------------',
    ];
    for (const token of odd) {
      const { id } = await sessions.create({ n: 1 }, { token });
      expect(id).toMatch(/^[\w-]{23}$/);
      await quiet();
      expect((await sessions.get(token))?.source).toBe('cache');
    }
    expect(list()).toHaveLength(odd.length);
    for (const path of list()) expect(path).toMatch(/^sessionkit-[\w.-]+\/0\/[\w-]{23}-[\w.-]+$/);
    expect(readdirSync(parent)).toEqual(['cache']);
  });
});

describe('FileCache: the same version again', () => {
  it('read by a strict route it writes no file, and the copy lives on', async () => {
    const { sessions, created, list, quiet, cache, clock } = await open({
      options: { cache: { maxAge: '10s' } },
    });
    const { token } = await created();
    const before = list();
    const { writes } = cache.stats();
    clock.advance(9_000);
    for (let i = 0; i < 5; i++) await sessions.get(token, { fresh: true });
    await quiet();
    expect(list()).toEqual(before);
    expect(cache.stats().writes).toBe(writes);
    clock.advance(9_000);
    expect(await sessions.get(token)).toMatchObject({ source: 'cache' });
  });
});

describe('FileCache: what hangs', () => {
  const never = () => new Promise<string>(() => undefined);

  it('a decoder that never answers is a miss with ETIMEDOUT, not a request that hangs', async () => {
    const { sessions, created, errors, quiet } = await open({
      decoder: never,
      encoder: JSON.stringify,
      timeoutMs: 50,
    });
    const { token } = await created();
    await quiet();
    expect(await sessions.get(token)).toMatchObject({ source: 'store' });
    expect(errors).toEqual([expect.objectContaining({ operation: 'read', code: 'ETIMEDOUT' })]);
  });

  it('an encoder that never answers costs the copy its file, and holds up neither further copies nor the end', async () => {
    const { cache, sessions, errors } = await open({
      encoder: never,
      decoder: JSON.parse,
      timeoutMs: 50,
    });
    const { token } = await sessions.create({ n: 1 });
    expect(await sessions.get(token)).toMatchObject({ source: 'cache' }); // from memory, while its file is awaited
    await vi.waitFor(() => expect(errors).toHaveLength(1));
    expect(errors).toEqual([expect.objectContaining({ operation: 'write', code: 'ETIMEDOUT' })]);
    expect(await sessions.get(token)).toMatchObject({ source: 'store' });
    const begun = performance.now();
    await cache.close();
    expect(performance.now() - begun).toBeLessThan(1_000);
  });
});

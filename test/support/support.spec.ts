// Proves the test tools themselves: a tool that lies makes every other spec worthless.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, inject, it, vi } from 'vitest';
import { freePort } from './free-port.js';
import globalSetup from './global-setup.js';
import { NodeWorker } from './node-worker.js';
import { dumpAllKeys, RedisMonitor } from './redis-monitor.js';
import { ensureRedisServer, findRedisServer, RedisServer } from './redis-server.js';
import { deleteByPrefix, testRedisUrl, uniquePrefix } from './redis-url.js';
import { RespScanner } from './resp-scanner.js';
import { TcpProxy } from './tcp-proxy.js';
import { waitFor } from './wait-for.js';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  vi.unstubAllEnvs();
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

let shared: RedisServer;
beforeAll(async () => {
  shared = await RedisServer.start();
});
afterAll(() => shared.stop());

/** A client that never reconnects; its errors are kept. */
function client(url: string, options: Record<string, unknown> = {}): { redis: Redis; errors: Error[] } {
  const errors: Error[] = [];
  const redis = new Redis(url, { retryStrategy: () => null, maxRetriesPerRequest: 0, ...options });
  redis.on('error', (error: Error) => errors.push(error));
  cleanups.push(() => redis.disconnect());
  return { redis, errors };
}

async function proxyTo(targetPort: number): Promise<TcpProxy> {
  const proxy = await TcpProxy.start({ targetPort });
  cleanups.push(() => proxy.close());
  return proxy;
}

async function server(options: Parameters<typeof RedisServer.start>[0] = {}): Promise<RedisServer> {
  const started = await RedisServer.start(options);
  cleanups.push(() => started.stop());
  return started;
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

function temporary(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sessionkit-spec-'));
  cleanups.push(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

function program(directory: string, name: string, text: string): string {
  const file = join(directory, name);
  writeFileSync(file, `#!/bin/sh\n${text}\n`);
  chmodSync(file, 0o755);
  return file;
}

describe('waitFor', () => {
  it('polls through falsy results and throws, and gives the value', async () => {
    let n = 0;
    const value = await waitFor(() => {
      n += 1;
      if (n === 1) throw new Error('no');
      return n > 3 ? 'yes' : '';
    });
    expect([value, n]).toEqual(['yes', 4]);
  });

  it('tells the last failure', async () => {
    const boom = waitFor(() => Promise.reject(new RangeError('boom')), { timeoutMs: 30, message: 'the sky' });
    await expect(boom).rejects.toThrow('the sky: not within 30 ms; last attempt threw RangeError: boom');
    await expect(boom).rejects.toHaveProperty('cause.name', 'RangeError');
    await expect(waitFor(() => undefined, { timeoutMs: 20 })).rejects.toThrow('return true');
    await expect(waitFor(() => new Promise(() => {}), { timeoutMs: 20 })).rejects.toThrow('never settled');
  });
});

describe('RedisServer', () => {
  it('finds the program by search path, valkey second', () => {
    vi.stubEnv('SESSIONKIT_SERVER', '');
    const directory = temporary();
    expect(findRedisServer()).toMatch(/-server$/);
    expect(findRedisServer(directory)).toBeNull();
    const valkey = program(directory, 'valkey-server', '');
    expect(findRedisServer(directory)).toBe(valkey);
    const redis = program(directory, 'redis-server', '');
    expect(findRedisServer(`/nowhere:${directory}`)).toBe(redis);
    vi.stubEnv('SESSIONKIT_SERVER', 'valkey');
    expect(findRedisServer(directory)).toBe(valkey);
    rmSync(valkey);
    expect(findRedisServer(directory)).toBeNull();
    expect(() => ensureRedisServer(directory)).toThrow(/^Tests need valkey-server on PATH: install it, /);
    vi.stubEnv('SESSIONKIT_SERVER', 'keydb');
    expect(() => findRedisServer(directory)).toThrow('SESSIONKIT_SERVER is "keydb"');
  });

  it('says in one line what to install when it cannot install', () => {
    vi.stubEnv('SESSIONKIT_SERVER', '');
    expect(() => ensureRedisServer(temporary())).toThrow(/^Tests need redis-server .*install it.*$/);
  });

  const debianRoot = process.getuid?.() === 0 && existsSync('/etc/debian_version');
  it.runIf(debianRoot)('installs the package on Debian as root, with one line of progress', () => {
    vi.stubEnv('SESSIONKIT_SERVER', '');
    const directory = temporary();
    const log = join(directory, 'log');
    const binary = join(directory, 'redis-server');
    const install = `[ "$1" = update ] || { echo '#!/bin/sh' > ${binary}; /bin/chmod +x ${binary}; }`;
    program(directory, 'apt-get', `echo "$@ $RUNLEVEL" >> ${log}; ${install}`);
    const progress = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    expect(ensureRedisServer(directory)).toBe(binary);
    expect(progress).toHaveBeenCalledTimes(1);
    expect(readFileSync(log, 'utf8')).toBe('update 1\ninstall -y redis-server 1\n');
    rmSync(binary);
    program(directory, 'apt-get', 'echo "no network" >&2; exit 100');
    expect(() => ensureRedisServer(directory)).toThrow('"apt-get update" failed (100): no network');
    progress.mockRestore();
  });

  it('starts, stops and leaves nothing', async () => {
    const started = await server({ args: ['--maxmemory', '9mb'] });
    const { redis } = client(started.url);
    const config = await redis.config('GET', '*');
    const settings = JSON.stringify(config);
    expect(settings).toContain('"9437184"');
    const info = await redis.info('server');
    expect(info).toContain(`process_id:${started.pid}\r`);
    expect(await redis.config('GET', 'save')).toEqual(
      expect.objectContaining(Array.isArray(config) ? ['save', ''] : { save: '' }),
    );
    const directory = /sessionkit-redis-\w+/.exec(settings)?.[0] ?? 'missing';
    expect(existsSync(join(tmpdir(), directory))).toBe(true);
    const { pid } = started;
    await started.stop();
    await started.stop();
    expect([alive(pid), started.running, existsSync(join(tmpdir(), directory))]).toEqual([
      false,
      false,
      false,
    ]);
    expect(() => started.pid).toThrow('not running');
  });

  it('restarts on the same port with no data, after kill as well', async () => {
    const started = await server();
    const { port, pid } = started;
    await client(started.url).redis.set('k', 'v');
    await started.restart();
    expect([started.port, started.pid === pid]).toEqual([port, false]);
    expect(await client(started.url).redis.dbsize()).toBe(0);
    await started.kill();
    expect(started.running).toBe(false);
    await started.restart();
    expect(await client(started.url).redis.ping()).toBe('PONG');
  });

  it('pauses and resumes, and stops while paused', async () => {
    const started = await server();
    const { redis } = client(started.url);
    await redis.ping();
    await started.pause();
    let answered = false;
    const ping = redis.ping().then(() => (answered = true));
    await expect(waitFor(() => answered, { timeoutMs: 100 })).rejects.toThrow();
    started.resume();
    await ping;
    await started.pause();
    const before = performance.now();
    await started.stop();
    expect(performance.now() - before).toBeLessThan(2500);
  });

  it('waits for its own port to become free, and rejects with the log otherwise', async () => {
    const squatter = createServer().listen(0, '127.0.0.1');
    await once(squatter, 'listening');
    const address = squatter.address();
    const port = address !== null && typeof address === 'object' ? address.port : 0;
    const starting = RedisServer.start({ port });
    const freed = setTimeout(() => squatter.close(), 400);
    const started = await starting;
    clearTimeout(freed);
    cleanups.push(() => started.stop());
    expect(started.port).toBe(port);
    await expect(RedisServer.start({ args: ['--no-such-option', '1'] })).rejects.toThrow(
      /server said:[^]*no-such/,
    );
  });

  it('knows a password-protected server as ready', async () => {
    const started = await server({ args: ['--requirepass', 'pw'] });
    expect(await client(started.url.replace('//', '//:pw@')).redis.ping()).toBe('PONG');
    const monitor = await RedisMonitor.open(started.url.replace('//', '//:pw@'));
    await monitor.sync();
    monitor.close();
    await expect(RedisMonitor.open(started.url)).rejects.toThrow('NOAUTH');
  });

  it.each(['SIGKILL', 'SIGTERM', 'exit'] as const)('dies with its test process (%s)', async (end) => {
    const directory = temporary();
    const script = join(directory, 'main.mjs');
    const source = `import { RedisServer } from './redis-server.ts';
      const server = await RedisServer.start();
      console.log(JSON.stringify([server.pid, process.pid]));
      process.stdin.once('data', () => process.exit(0));`;
    await build({
      stdin: { contents: source, resolveDir: import.meta.dirname },
      bundle: true,
      platform: 'node',
      format: 'esm',
      outfile: script,
    });
    const child = spawn(process.execPath, [script], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, TMPDIR: directory },
    });
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    const [pid = 0] = JSON.parse(line.toString()) as number[];
    expect(alive(pid)).toBe(true);
    if (end === 'exit') child.stdin.write('x');
    else child.kill(end);
    await waitFor(() => !alive(pid), { message: 'redis-server to be gone' });
    await waitFor(() => !readdirSync(directory).some((name) => name.startsWith('sessionkit-redis')));
  });
});

describe('global setup', () => {
  const provided: string[] = [];
  const project = { provide: (_key: string, value: string): void => void provided.push(value) };
  type Project = Parameters<typeof globalSetup>[0];

  it('starts one server and stops it, or uses REDIS_URL and leaves it alone', async () => {
    vi.stubEnv('REDIS_URL', undefined);
    const stop = await globalSetup(project as Project);
    const own = provided.at(-1) ?? '';
    expect(await client(own).redis.ping()).toBe('PONG');
    await stop();
    const { redis, errors } = client(own, { lazyConnect: true });
    await expect(redis.connect()).rejects.toThrow();
    expect(errors.length).toBeGreaterThan(0);

    vi.stubEnv('REDIS_URL', shared.url);
    const leave = await globalSetup(project as Project);
    expect(provided.at(-1)).toBe(shared.url);
    await leave();
    expect(shared.running).toBe(true);

    vi.stubEnv('REDIS_URL', `redis://127.0.0.1:${await freePort()}`);
    await expect(globalSetup(project as Project)).rejects.toThrow('cannot be reached');
  });

  it('reaches the specs through testRedisUrl', async () => {
    if ((inject('redisUrl') as string | undefined) === undefined)
      expect(testRedisUrl).toThrow('global-setup.ts');
    else expect(await client(testRedisUrl()).redis.ping()).toBe('PONG');
  });

  it('deletes by literal prefix only', async () => {
    const prefix = uniquePrefix();
    expect(prefix).toMatch(/^t-[0-9a-f]{12}:$/);
    const { redis } = client(shared.url);
    const doomed = Array.from({ length: 2500 }, (_, n) => `${prefix}[*]${n}`);
    await redis.mset(Object.fromEntries([...doomed, `${prefix}other`].map((key) => [key, '1'])));
    expect(await deleteByPrefix(redis, `${prefix}[*]`)).toBe(2500);
    expect(await deleteByPrefix(redis, prefix)).toBe(1);
    await expect(deleteByPrefix(redis, '')).rejects.toThrow('empty prefix');
  });
});

describe('RespScanner', () => {
  const stream = Buffer.from(
    '+OK\r\n$5\r\na\r\nbc\r\n*2\r\n$-1\r\n*1\r\n:1\r\n%1\r\n+k\r\n#t\r\n>2\r\n+x\r\n+y\r\n|1\r\n+a\r\n+b\r\n*0\r\n*-1\r\n_\r\n=5\r\ntxt:x\r\n',
  );

  it('finds the same ends however the bytes are cut', () => {
    const whole = new RespScanner().feed(stream);
    expect(whole.map(({ type }) => type).join('')).toBe('+$*%>**_=');
    for (let size = 1; size < 12; size += 1) {
      const scanner = new RespScanner();
      const ends: number[] = [];
      for (let at = 0; at < stream.length; at += size) {
        for (const { end } of scanner.feed(stream.subarray(at, at + size))) ends.push(at + end);
      }
      expect(ends).toEqual(whole.map(({ end }) => end));
      expect([scanner.partial, scanner.broken]).toEqual([false, false]);
    }
  });

  it('collects commands, inline ones too, and notices what is no RESP', () => {
    const scanner = new RespScanner({ inline: true, collect: true });
    const frames = scanner.feed(Buffer.from('*2\r\n$3\r\nGET\r\n$2\r\né\r\nPING x\r\n\r\n*1\r\n$4\r\nPI'));
    expect(frames.map(({ strings }) => strings)).toEqual([
      ['GET', 'é'],
      ['PING', 'x'],
    ]);
    expect(scanner.partial).toBe(true);
    const broken = new RespScanner();
    broken.feed(Buffer.from('HTTP/1.1 200\r\n'));
    expect(broken.broken).toBe(true);
  });
});

describe('TcpProxy', () => {
  it('forwards, counts connections, reports commands, and closes', async () => {
    const seen: string[] = [];
    const proxy = await TcpProxy.start({ targetPort: shared.port, onCommand: (c) => seen.push(c.join(' ')) });
    cleanups.push(() => proxy.close());
    const { redis } = client(proxy.url);
    const key = `${uniquePrefix()}big`;
    const big = 'x'.repeat(3_000_000);
    await redis.set(key, big);
    expect((await redis.get(key)) === big).toBe(true);
    await redis.unlink(key);
    expect(seen.map((c) => c.toLowerCase())).toContain(`get ${key}`.toLowerCase());
    expect([proxy.connections, proxy.accepted]).toEqual([1, 1]);
    redis.disconnect();
    await waitFor(() => proxy.connections === 0);
    const again = client(proxy.url).redis;
    await again.ping();
    await proxy.close();
    await waitFor(() => again.status === 'end');
    await proxy.close();
  });

  it('passes the end of the server on', async () => {
    const mortal = await server();
    const proxy = await proxyTo(mortal.port);
    const { redis } = client(proxy.url);
    await redis.ping();
    await mortal.kill();
    await waitFor(() => redis.status === 'end');
    const late = client(proxy.url).redis;
    await waitFor(() => late.status === 'end');
    await waitFor(() => proxy.connections === 0);
  });

  it('cuts all with RST and refuses while told to', async () => {
    const proxy = await proxyTo(shared.port);
    const socket = connect(proxy.port, '127.0.0.1');
    socket.write('PING\r\n');
    await once(socket, 'data');
    const failure = new Promise<NodeJS.ErrnoException>((resolve) => socket.once('error', resolve));
    expect(proxy.cutAll()).toBe(1);
    expect((await failure).code).toBe('ECONNRESET');
    expect(proxy.connections).toBe(0);
    proxy.refuse(true);
    const { redis } = client(proxy.url);
    await waitFor(() => redis.status === 'end');
    expect(proxy.refused).toBe(1);
    proxy.refuse(false);
    expect(await client(proxy.url).redis.ping()).toBe('PONG');
  });

  it.each([{ upstream: true }, { downstream: true }, {}])(
    'holds %o and releases in order',
    async (directions) => {
      const proxy = await proxyTo(shared.port);
      const { redis } = client(proxy.url);
      const direct = client(shared.url).redis;
      const key = `${uniquePrefix()}list`;
      await redis.ping();
      proxy.blackhole(directions);
      let answers = 0;
      const pushes = Promise.all(
        Array.from({ length: 50 }, async (_, n) => {
          await redis.rpush(key, n);
          answers += 1;
        }),
      );
      if (directions.downstream === true) await waitFor(async () => (await direct.llen(key)) === 50);
      else await expect(waitFor(() => direct.llen(key), { timeoutMs: 100 })).rejects.toThrow();
      expect([answers, redis.status, proxy.connections]).toEqual([0, 'ready', 1]);
      proxy.resume();
      await pushes;
      expect(await direct.lrange(key, 0, -1)).toEqual(Array.from({ length: 50 }, (_, n) => String(n)));
      await direct.unlink(key);
    },
  );

  it('holds a FIN as well, and delivers what a dead client had sent', async () => {
    const proxy = await proxyTo(shared.port);
    const { redis } = client(proxy.url);
    const direct = client(shared.url).redis;
    const key = `${uniquePrefix()}late`;
    const id = await redis.client('ID');
    const listed = async (): Promise<boolean> =>
      new RegExp(`^id=${id} `, 'm').test(String(await direct.client('LIST')));
    proxy.blackhole({ upstream: true });
    redis.set(key, 'late').catch(() => undefined);
    await new Promise((resolve) => setImmediate(resolve));
    redis.disconnect();
    await waitFor(() => proxy.connections === 0);
    expect([await listed(), await direct.get(key)]).toEqual([true, null]);
    proxy.resume();
    await waitFor(async () => (await direct.getdel(key)) === 'late');
    await waitFor(async () => !(await listed()));
  });

  it('abandons the connections there are for ever, while new ones work', async () => {
    const proxy = await proxyTo(shared.port);
    const { redis: old } = client(proxy.url);
    const direct = client(shared.url).redis;
    const key = `${uniquePrefix()}abandoned`;
    await old.ping();
    proxy.abandon({ downstream: true });
    let answered = false;
    old.set(key, 'sent').then(
      () => (answered = true),
      () => undefined,
    );
    await waitFor(async () => (await direct.getdel(key)) === 'sent');
    proxy.abandon();
    proxy.resume();
    old.set(key, 'lost').catch(() => undefined);
    // A round trip of a new connection after it: the old one's would have been done.
    expect(await client(proxy.url).redis.ping()).toBe('PONG');
    expect([answered, old.status, proxy.connections, await direct.get(key)]).toEqual([
      false,
      'ready',
      2,
      null,
    ]);
    old.disconnect();
    await waitFor(() => proxy.connections === 1);
  });

  it('delays and keeps order', async () => {
    const proxy = await proxyTo(shared.port);
    const { redis } = client(proxy.url);
    await redis.ping();
    const waits = [60, 0, 30, 5, 0];
    let n = 0;
    proxy.delay({ upstreamMs: () => waits[n++ % 5] ?? 0, downstreamMs: () => waits[n++ % 5] ?? 0 });
    const before = performance.now();
    const order: number[] = [];
    const key = uniquePrefix();
    const pushes: Promise<unknown>[] = [];
    for (let i = 0; i < 20; i += 1) {
      pushes.push(redis.rpush(key, i).then((length) => order.push(length)));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await Promise.all(pushes);
    expect(performance.now() - before).toBeGreaterThan(58);
    expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
    proxy.delay({});
    expect(await redis.lrange(key, 0, -1)).toEqual(Array.from({ length: 20 }, (_, i) => String(i)));
    await redis.unlink(key);
  });

  describe('cutAfterRequest', () => {
    it('lets the server run the command and the client not know, 200 times', async () => {
      const proxy = await proxyTo(shared.port);
      const direct = client(shared.url).redis;
      const bystander = client(proxy.url).redis;
      const key = `${uniquePrefix()}count`;
      const { redis } = client(proxy.url, {
        retryStrategy: () => 0,
        maxRetriesPerRequest: 0,
        enableReadyCheck: false,
      });
      for (let round = 1; round <= 200; round += 1) {
        await waitFor(() => redis.status === 'ready', { intervalMs: 1 });
        const cut = proxy.cutAfterRequest((chunk) => chunk.includes(key));
        const other = bystander.get(`${key.slice(0, -1)}-other`);
        await expect(redis.incr(key)).rejects.toThrow();
        const report = await cut;
        expect(report.answer.toString()).toBe(`:${round}\r\n`);
        expect(report.request.includes(key)).toBe(true);
        expect(await other).toBeNull();
      }
      expect(await direct.getdel(key)).toBe('200');
      expect([proxy.cuts, bystander.status]).toEqual([200, 'ready']);
    });

    it('does not take an earlier answer for the one awaited', async () => {
      const seen: string[] = [];
      const proxy = await TcpProxy.start({
        targetPort: shared.port,
        onCommand: ([name = '']) => seen.push(name),
      });
      cleanups.push(() => proxy.close());
      const { redis } = client(proxy.url);
      await redis.ping();
      const key = uniquePrefix();
      const slow = redis.eval("local t=redis.call('TIME')[1]+0 for i=1,5e6 do t=t+i end return 'slow'", 0);
      await waitFor(() => seen.includes('eval'), { intervalMs: 0 });
      const cut = proxy.cutAfterRequest((chunk) => chunk.includes(key));
      const lost = redis.set(key, 'v').then(
        () => 'answered',
        () => 'lost',
      );
      expect([await slow, await lost]).toEqual(['slow', 'lost']);
      expect((await cut).answer.toString()).toBe('+OK\r\n');
      expect(await client(shared.url).redis.getdel(key)).toBe('v');
    });

    it('cuts each connection for its own command, with several armed', async () => {
      const proxy = await proxyTo(shared.port);
      const clients = await Promise.all(
        Array.from({ length: 8 }, async () => {
          const { redis } = client(proxy.url);
          await redis.ping();
          return redis;
        }),
      );
      const key = uniquePrefix();
      const cuts = clients.map((_, n) => proxy.cutAfterRequest((chunk) => chunk.includes(`${key}${n}\r`)));
      const results = await Promise.allSettled(clients.map((redis, n) => redis.set(`${key}${n}`, n)));
      expect(results.every(({ status }) => status === 'rejected')).toBe(true);
      const reports = await Promise.all(cuts);
      expect(new Set(reports.map(({ connectionId }) => connectionId)).size).toBe(8);
      const direct = client(shared.url).redis;
      expect(await deleteByPrefix(direct, key)).toBe(8);
    });

    it('works with a whole pipeline and with a long answer', async () => {
      const proxy = await proxyTo(shared.port);
      const key = uniquePrefix();
      const first = client(proxy.url).redis;
      await first.ping();
      const cut = proxy.cutAfterRequest((chunk) => chunk.includes(key));
      const big = 'y'.repeat(1_000_000);
      await expect(
        first.pipeline().set(key, 1).eval(`return string.rep('z', 2000000)`, 0).exec(),
      ).resolves.toSatisfy((results: unknown) => !JSON.stringify(results).includes('OK'));
      expect((await cut).answer.length).toBeGreaterThan(2_000_000);
      const second = client(proxy.url).redis;
      await second.ping();
      const another = proxy.cutAfterRequest((chunk) => chunk.includes(key));
      await expect(second.set(key, big)).rejects.toThrow();
      await another;
      expect((await client(shared.url).redis.getdel(key))?.length).toBe(1_000_000);
    });

    it('cuts a SUBSCRIBE', async () => {
      const proxy = await proxyTo(shared.port);
      const { redis } = client(proxy.url);
      await redis.ping();
      const channel = uniquePrefix();
      const cut = proxy.cutAfterRequest((chunk) => chunk.includes(channel));
      await expect(redis.subscribe(channel)).rejects.toThrow();
      expect((await cut).answer.toString()).toContain(channel);
    });

    it('does not take a RESP3 push for the answer', async () => {
      const fake = createServer((socket) => {
        socket.on('error', () => undefined);
        socket.write('>2\r\n+a\r\n+push\r\n');
        socket.on('data', () => {
          socket.write('>2\r\n+a\r\n+push\r\n', () => setImmediate(() => socket.write(':1\r\n')));
        });
      }).listen(0, '127.0.0.1');
      cleanups.push(() => fake.close());
      await once(fake, 'listening');
      const address = fake.address();
      const proxy = await proxyTo(address !== null && typeof address === 'object' ? address.port : 0);
      const cut = proxy.cutAfterRequest((chunk) => chunk.includes('INCR'));
      const socket = connect(proxy.port, '127.0.0.1');
      let received = '';
      socket.on('data', (chunk: Buffer) => (received += chunk.toString()));
      await waitFor(() => received);
      socket.write('*2\r\n$4\r\nINCR\r\n$1\r\nk\r\n');
      expect((await cut).answer.toString()).toMatch(/:1\r\n$/);
      await waitFor(() => socket.destroyed);
      expect(received).not.toContain(':1');
    });

    it('rejects when disarmed, when the predicate throws, and when no answer can come', async () => {
      const mortal = await server();
      const proxy = await proxyTo(mortal.port);
      const { redis } = client(proxy.url);
      await redis.ping();
      const idle = proxy.cutAfterRequest(() => false);
      expect(proxy.disarm()).toBe(1);
      await expect(idle).rejects.toThrow('disarmed');
      const bad = proxy.cutAfterRequest(() => {
        throw new TypeError('bad predicate');
      });
      expect(await redis.ping()).toBe('PONG');
      await expect(bad).rejects.toThrow('bad predicate');
      await mortal.pause();
      const cut = proxy.cutAfterRequest((chunk) => chunk.includes('unanswered'));
      const lost = expect(redis.get('unanswered')).rejects.toThrow();
      await mortal.kill();
      await expect(cut).rejects.toThrow('before');
      await lost;
    });
  });
});

describe('NodeWorker', () => {
  const echo = new URL('./fixtures/echo-worker.mjs', import.meta.url);
  async function worker(options: Parameters<typeof NodeWorker.start>[1] = {}): Promise<NodeWorker> {
    const started = await NodeWorker.start(echo, options);
    cleanups.push(async () => {
      if (started.exit === null) await started.kill();
    });
    return started;
  }

  it('calls methods, passes options, captures output, and stops by itself', async () => {
    const w = await worker({ env: { SPEC_VALUE: 'given', PATH: undefined }, execArgv: ['--expose-gc'] });
    expect(await w.call<number>('add', 2, 3)).toBe(5);
    const value = { map: new Map([[1n, new Date(5)]]), nothing: undefined };
    expect(await w.call('echo', value)).toEqual(value);
    expect([await w.call('env', 'SPEC_VALUE'), await w.call('env', 'PATH'), await w.call('gc')]).toEqual([
      'given',
      undefined,
      'function',
    ]);
    await w.call('say', 'hello');
    expect(await w.stop()).toBe(0);
    expect(w.output).toMatch(/out hello/);
    expect(w.output).toMatch(/err hello/);
    expect(alive(w.pid)).toBe(false);
    await expect(w.call('add', 1, 1)).rejects.toThrow('is gone');
    expect(await w.stop()).toBe(0);
  });

  it('passes errors with name, code, message and cause', async () => {
    const w = await worker();
    const error: unknown = await w.call('fail').catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ name: 'TypeError', code: 'E_TOLD', message: 'told you' });
    expect(error).toMatchObject({ cause: { name: 'RangeError', code: 7, message: 'below' } });
    await expect(w.call('missing')).rejects.toMatchObject({ code: 'ERR_NO_METHOD' });
    await expect(w.call('toString')).rejects.toMatchObject({ code: 'ERR_NO_METHOD' });
    await expect(w.call('uncloneable')).rejects.toThrow('could not be cloned');
    await expect(w.call('echo', () => 1)).rejects.toThrow('could not be cloned');
    await w.stop();
  });

  it('delivers events in order', async () => {
    const w = await worker();
    await w.call('emitTwice');
    expect(await w.event('second')).toEqual({ event: 'second', n: 2, when: new Date(0) });
    expect(w.events.map(({ event }) => event)).toEqual(['first', 'second']);
    await expect(w.event('third', { timeoutMs: 30 })).rejects.toThrow('event third');
    await w.stop();
  });

  it('surfaces an unhandled rejection in call, stop and kill', async () => {
    const w = await worker({ env: { NODE_OPTIONS: '--unhandled-rejections=warn' } });
    await w.call('reject').catch(() => undefined);
    await w.exited;
    await expect(w.call('add', 1, 1)).rejects.toThrow('nobody caught me');
    await expect(w.stop()).rejects.toThrow('nobody caught me');
    await expect(w.kill()).rejects.toThrow('crashed');
    const hanging = await worker();
    const hang = hanging.call('hang').catch((error: Error) => error.message);
    await hanging.call('reject').catch(() => undefined);
    expect(await hang).toContain('nobody caught me');
  });

  it('notices a process that something keeps alive', async () => {
    const w = await worker();
    await w.call('leak');
    await expect(w.stop({ timeoutMs: 300 })).rejects.toThrow('did not end by itself');
    expect(alive(w.pid)).toBe(false);
    const clean = await worker();
    await clean.call('leak');
    await clean.call('unleak');
    expect(await clean.stop()).toBe(0);
  });

  it('kills, freezes, and tells how the process ended', async () => {
    const w = await worker();
    w.pause();
    let answered = false;
    const call = w.call('add', 1, 1).then(() => (answered = true));
    await expect(waitFor(() => answered, { timeoutMs: 100 })).rejects.toThrow();
    w.resume();
    await call;
    expect(await w.kill()).toEqual({ code: null, signal: 'SIGKILL' });
    const quitter = await worker();
    await quitter.call('leave', 3);
    expect(await quitter.waitForExit()).toEqual({ code: 3, signal: null });
    await quitter.kill();
  });

  it('limits calls and starts, with the output in the message', async () => {
    const w = await worker({ callTimeoutMs: 100 });
    await expect(w.call('hang')).rejects.toThrow('did not answer hang');
    await w.stop();
    const directory = temporary();
    const module = (text: string): URL => {
      const file = join(directory, `${text.length}.mjs`);
      writeFileSync(file, text);
      return new URL(`file://${file}`);
    };
    await expect(NodeWorker.start(module('throw new Error("bad module")'))).rejects.toThrow('bad module');
    const silent = module('console.log("silent"); setInterval(() => {}, 1000);');
    await expect(NodeWorker.start(silent, { startTimeoutMs: 500 })).rejects.toThrow(/serve\(\)[^]*silent/);
  });
});

describe('RedisMonitor and dumpAllKeys', () => {
  it('sees every command, including those of scripts, and adds none', async () => {
    const { redis } = client(shared.url);
    await redis.ping();
    const monitor = await RedisMonitor.open(shared.url);
    cleanups.push(() => monitor.close());
    const key = uniquePrefix();
    await redis.set(key, 'a\r\nb');
    await redis.eval(`return redis.call('DEL', KEYS[1])`, 1, key);
    await monitor.sync();
    expect(monitor.commandsMatching(/"set"/gi)).toHaveLength(1);
    expect(monitor.commandsMatching(/lua\] "DEL"/)).toHaveLength(1);
    expect(monitor.lines).toHaveLength(3);
    monitor.clear();
    await monitor.sync();
    expect(monitor.lines).toEqual([]);
  });

  it('dumps every type and database with TTL', async () => {
    const own = await server();
    const { redis } = client(own.url);
    await redis.set('string', 'sécret-1', 'PX', 60_000);
    await redis.set('binary', Buffer.from([0xff, 0x41, 0x42]));
    await redis.zadd('zset', 12, 'secret-2');
    await redis.hset('hash', 'secret-3', 'secret-4');
    await redis.rpush('list', 'secret-5', 'secret-6');
    await redis.sadd('set', 'secret-7');
    await redis.xadd('stream', '*', 'secret-8', 'secret-9');
    await redis.select(5);
    await redis.set('far', 'secret-10');
    const dump = await dumpAllKeys(own.url);
    expect(dump).toMatch(/^db0 string ttl=(59\d\d\d|60000) string\n {2}sécret-1$/m);
    expect(dump).toMatch(/^db0 zset ttl=-1 zset\n {2}secret-2\n {2}12$/m);
    expect(dump).toMatch(/^db0 hash ttl=-1 hash\n {2}secret-3\n {2}secret-4$/m);
    expect(dump).toContain('\u00ffAB');
    expect(dump).toMatch(/^db5 string ttl=-1 far\n {2}secret-10$/m);
    for (let n = 2; n <= 10; n += 1) expect(dump).toContain(`secret-${n}`);
    await own.stop();
    await expect(dumpAllKeys(own.url)).rejects.toThrow();
  });
});

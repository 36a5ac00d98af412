// The benchmark's own Redis: a server from PATH on a free port with a temp dir of its own, or the one REDIS_URL names.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';

const START_DEADLINE_MS = 10_000;

/** Resolves to `{ url, own, stop }`; with `own: false` nothing was started and `stop` does nothing. */
export async function openRedis() {
  if (process.env.REDIS_URL) return { url: process.env.REDIS_URL, own: false, stop: async () => {} };
  return startRedis();
}

/** A server of our own in any case. */
export async function startRedis() {
  let problem = '';
  for (const program of ['redis-server', 'valkey-server']) {
    try {
      return await start(program);
    } catch (error) {
      problem = error.message;
      if (error.code !== 'ENOENT') break;
    }
  }
  throw new Error(
    `No Redis: ${problem}. Install redis-server (apt-get install redis-server) or set REDIS_URL.`,
  );
}

async function start(program) {
  const port = await freePort();
  const directory = mkdtempSync(join(tmpdir(), 'sessionkit-bench-'));
  const settings = { port, bind: '127.0.0.1', dir: directory, save: '', appendonly: 'no' };
  const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)]);
  const child = spawn(program, args, { stdio: 'ignore' });
  const ended = new Promise((resolve) => {
    child.once('exit', (code) => resolve(new Error(`${program} ended with code ${code}`)));
    child.once('error', resolve);
  });
  const clean = () => {
    child.kill('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  };
  // Also when the benchmark fails or is interrupted.
  process.once('exit', clean);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));

  const url = `redis://127.0.0.1:${port}`;
  const failure = await Promise.race([ended, answers(url)]);
  if (failure) {
    clean();
    throw failure;
  }
  const stop = async () => {
    child.kill('SIGTERM');
    await Promise.race([ended, delay(5_000, undefined, { ref: false })]);
    process.off('exit', clean);
    clean();
  };
  return { url, own: true, stop };
}

/** Resolves to undefined once the server answers, or to an error after the deadline. */
async function answers(url) {
  const deadline = Date.now() + START_DEADLINE_MS;
  while (Date.now() < deadline) {
    const client = new Redis(url, { lazyConnect: true, retryStrategy: null });
    client.on('error', () => {}); // not up yet: asked again below
    const pong = await client
      .connect()
      .then(() => client.ping())
      .catch(() => undefined);
    client.disconnect();
    if (pong === 'PONG') return undefined;
    await delay(20);
  }
  return new Error(`the server did not answer within ${START_DEADLINE_MS} ms`);
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** `{ get: { calls, usec }, … }` since the server's start. Commands that scripts run are counted under their own names. */
export async function commandStats(client) {
  const stats = {};
  for (const [, name, calls, usec] of (await client.info('commandstats')).matchAll(
    /^cmdstat_(\S+?):calls=(\d+),usec=(\d+)/gm,
  ))
    stats[name] = { calls: Number(calls), usec: Number(usec) };
  return stats;
}

/** What happened between two `commandStats`, without the asking itself. */
export function statsBetween(before, after) {
  const change = {};
  for (const [name, { calls, usec }] of Object.entries(after)) {
    if (name === 'info') continue;
    const more = calls - (before[name]?.calls ?? 0);
    if (more > 0) change[name] = { calls: more, usec: usec - (before[name]?.usec ?? 0) };
  }
  return change;
}

/** Deletes the keys that begin with `prefix`; nothing else on the server is touched. */
export async function deleteByPrefix(client, prefix) {
  let cursor = '0';
  do {
    const [next, keys] = await client.scan(cursor, 'MATCH', `${prefix}*`, 'COUNT', 1000);
    cursor = next;
    if (keys.length > 0) await client.unlink(...keys);
  } while (cursor !== '0');
}

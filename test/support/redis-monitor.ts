// Looking into a Redis from outside: every command it runs (MONITOR), and everything it stores.
import { randomUUID } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { Redis } from 'ioredis';
import { waitFor } from './wait-for.js';

/** A MONITOR session over a plain socket. Sees all clients and databases, commands from scripts as well. */
export class RedisMonitor {
  /** Lines as Redis sends them, oldest first: `<time> [<db> <address or lua>] "get" "key"`. */
  readonly lines: string[] = [];
  #rest = '';
  #confirmations: number;
  #error: string | null = null;
  readonly #socket: Socket;
  readonly #url: string;

  private constructor(url: string) {
    this.#url = url;
    this.#confirmations = new URL(url).password === '' ? 1 : 2;
    this.#socket = sendTo(url, 'MONITOR');
    this.#socket.on('data', (chunk: Buffer) => this.#receive(chunk.toString('latin1')));
    this.#socket.on('error', (error) => (this.#error ??= error.message));
    this.#socket.on('close', () => (this.#error ??= 'the connection ended'));
  }

  /** Opens a session; resolves once Redis has confirmed MONITOR, rejects after 5000 ms or when it refuses. */
  static async open(url: string): Promise<RedisMonitor> {
    const monitor = new RedisMonitor(url);
    try {
      await waitFor(() => monitor.#confirmations === 0 || monitor.#error !== null, {
        message: `MONITOR on ${url}`,
      });
      if (monitor.#error !== null) throw new Error(`MONITOR on ${url}: ${monitor.#error}`);
    } catch (error) {
      monitor.close();
      throw error;
    }
    return monitor;
  }

  /** The lines that match, without any need to wait; call `sync()` first when a command must not be missed. */
  commandsMatching(pattern: RegExp): string[] {
    const stateless = new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, ''));
    return this.lines.filter((line) => stateless.test(line));
  }

  /** Resolves once every command Redis ran before this call is in `lines`; rejects after 5000 ms. */
  async sync(): Promise<void> {
    const marker = `sync-${randomUUID()}`;
    const socket = sendTo(this.#url, 'ECHO', marker);
    try {
      const at = await waitFor(
        () => {
          if (this.#error !== null) throw new Error(this.#error);
          return this.lines.findIndex((line) => line.includes(marker)) + 1;
        },
        { message: 'MONITOR to catch up' },
      );
      this.lines.splice(at - 1, 1);
    } finally {
      socket.destroy();
    }
  }

  /** Forgets the lines collected so far. */
  clear(): void {
    this.lines.length = 0;
  }

  /** Ends the session; `lines` stay. May be repeated. */
  close(): void {
    this.#socket.destroy();
  }

  #receive(text: string): void {
    const lines = (this.#rest + text).split('\r\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line.startsWith('-')) this.#error ??= line.slice(1);
      else if (this.#confirmations > 0) this.#confirmations -= 1;
      else this.lines.push(line.slice(1));
    }
  }
}

/** Opens a socket to `url` and sends one command, after AUTH when the URL has a password. */
function sendTo(url: string, ...command: string[]): Socket {
  const { hostname, port, username, password } = new URL(url);
  const socket = connect(Number(port || 6379), hostname);
  const auth = [username, password].filter((part) => part !== '').map(decodeURIComponent);
  for (const words of password === '' ? [command] : [['AUTH', ...auth], command]) {
    const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    socket.write(`*${words.length}\r\n${parts.join('')}`);
  }
  socket.on('error', () => undefined);
  return socket;
}

/**
 * Everything a Redis stores, in all its databases, as text to search for secrets: per key its database, type, TTL
 * (milliseconds, -1 for none), name and full content. Bytes that are no UTF-8 appear as Latin-1. Keys that expire
 * while it reads are left out; rejects when Redis cannot be reached or on a type it cannot read.
 */
export async function dumpAllKeys(url: string): Promise<string> {
  const client = quietClient(url);
  const out: string[] = [];
  try {
    await client.connect();
    const keyspace = await client.info('keyspace');
    for (const [, database = '0'] of keyspace.matchAll(/^db(\d+):/gm)) {
      await client.select(Number(database));
      for (const key of await allKeys(client)) {
        const [type, ttl] = await Promise.all([client.type(key), client.pttl(key)]);
        if (type === 'none') continue;
        const content = await client.callBuffer(...readCommand(type, key));
        out.push(
          `db${database} ${type} ttl=${ttl} ${text(key)}`,
          ...flat(content).map((line) => `  ${line}`),
        );
      }
    }
  } finally {
    client.disconnect();
  }
  return out.join('\n');
}

async function allKeys(client: Redis): Promise<Buffer[]> {
  const keys = new Map<string, Buffer>();
  let cursor = '0';
  do {
    const [next, page] = await client.scanBuffer(cursor, 'COUNT', 1000);
    for (const key of page) keys.set(key.toString('latin1'), key);
    cursor = next.toString();
  } while (cursor !== '0');
  return [...keys.values()];
}

function readCommand(type: string, key: Buffer): [string, ...(string | Buffer)[]] {
  switch (type) {
    case 'string':
      return ['GET', key];
    case 'zset':
      return ['ZRANGE', key, '0', '-1', 'WITHSCORES'];
    case 'hash':
      return ['HGETALL', key];
    case 'list':
      return ['LRANGE', key, '0', '-1'];
    case 'set':
      return ['SMEMBERS', key];
    case 'stream':
      return ['XRANGE', key, '-', '+'];
    default:
      throw new Error(`dumpAllKeys cannot read type ${type} of key ${text(key)}`);
  }
}

function flat(value: unknown): string[] {
  if (Buffer.isBuffer(value)) return [text(value)];
  if (typeof value === 'string' || typeof value === 'number') return [`${value}`];
  if (Array.isArray(value)) return value.flatMap(flat);
  if (value !== null && typeof value === 'object') return Object.entries(value).flatMap(flat);
  return [];
}

function text(bytes: Buffer): string {
  const utf8 = bytes.toString('utf8');
  return utf8.includes('\ufffd') ? bytes.toString('latin1') : utf8;
}

function quietClient(url: string): Redis {
  const client = new Redis(url, { lazyConnect: true, retryStrategy: () => null, maxRetriesPerRequest: 0 });
  client.on('error', () => undefined);
  return client;
}

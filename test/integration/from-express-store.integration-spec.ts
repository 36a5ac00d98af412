// fromExpressStore over real stores of express-session: the conformance suite, less what they cannot do.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import connectPgSimple from 'connect-pg-simple';
import { RedisStore } from 'connect-redis';
import session from 'express-session';
import createMemoryStore from 'memorystore';
import { Pool } from 'pg';
import { createClient } from 'redis';
import createFileStore from 'session-file-store';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fromExpressStore, type ExpressStore } from '../../lib/express-store/index.js';
import { findPostgres, PostgresServer } from '../support/postgres-server.js';
import { RedisServer } from '../support/redis-server.js';
import { describeSessionStore } from '../../lib/testing/index.js';
import { mustCreate } from '../../lib/testing/kit.js';

const MemoryStore = createMemoryStore(session);
const FileStore = createFileStore(session);
const PgStore = connectPgSimple(session);

/** The machine's clock, which the store beneath goes by, and ahead of it what the suite has let pass. */
function movedClock() {
  let passed = 0;
  return {
    clock: { monotonic: () => performance.now() + passed, wall: () => Date.now() + passed },
    advance: (ms: number): void => void (passed += ms),
  };
}

/** One for a test of the suite. */
function opened(foreign: ExpressStore) {
  const { clock, advance } = movedClock();
  const store = fromExpressStore(foreign, { clock });
  return { store, advance, close: () => store.close() };
}

describeSessionStore({ describe, it }, "express-session's MemoryStore", async () => {
  return opened(new session.MemoryStore());
});

describeSessionStore({ describe, it }, 'memorystore', async () => {
  return opened(new MemoryStore({}));
});

describe('connect-redis', () => {
  let server: RedisServer;
  let client: ReturnType<typeof createClient>;
  let made = 0;
  beforeAll(async () => {
    server = await RedisServer.start();
    client = createClient({ url: server.url });
    client.on('error', () => undefined);
    await client.connect();
  });
  afterAll(async () => {
    client.destroy();
    await server.stop();
  });
  const open = () => new RedisStore({ client, prefix: `test${++made}:` });

  describeSessionStore({ describe, it }, 'connect-redis', async () => {
    return opened(open());
  });

  it('gives Redis the deadline of a session as its expiry, and a far one to a session without end', async () => {
    const store = fromExpressStore(open());
    const { record } = await mustCreate(store, { idleTimeout: 90_000, absoluteTimeout: 0 });
    const { record: immortal } = await mustCreate(store, { idleTimeout: 0, absoluteTimeout: 0 });
    const key = (id: string) => `test${made}:${id}`;
    const expiry = await client.pExpireTime(key(record.id));
    expect(expiry - (record.lastAccess + 90_000)).toBeGreaterThanOrEqual(-1);
    expect(expiry - (record.lastAccess + 90_000)).toBeLessThan(2_000);
    expect(await client.pExpireTime(key(immortal.id))).toBeGreaterThanOrEqual(Date.UTC(2100, 0, 1));
    const stored = JSON.parse((await client.get(key(record.id)))!) as session.SessionData;
    expect(stored.cookie.originalMaxAge).toBeGreaterThan(89_000);
    expect(Date.parse(stored.cookie.expires as unknown as string)).toBe(record.lastAccess + 90_000);
  });
});

describe('session-file-store', () => {
  let directory: string;
  let made = 0;
  beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), 'sessionkit-files-'))));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  describeSessionStore({ describe, it }, 'session-file-store', async () => {
    const path = join(directory, String(++made));
    // Without retries: it takes a file that is not there for one that will come.
    return opened(new FileStore({ path, retries: 0, reapInterval: -1, logFn: () => {} }));
  });
});

const postgres = findPostgres();
if ('missing' in postgres) console.warn(`connect-pg-simple is not tested: ${postgres.missing}`);
describe.skipIf('missing' in postgres)('connect-pg-simple', () => {
  let server: PostgresServer;
  let pool: Pool;
  let made = 0;
  beforeAll(async () => {
    server = await PostgresServer.start();
    pool = new Pool({ connectionString: server.url, max: 5 });
    pool.on('error', () => undefined);
    await pool.query('SELECT 1');
  }, 120_000);
  afterAll(async () => {
    await pool?.end();
    await server?.stop();
  });
  const open = async () => {
    const tableName = `session${++made}`;
    const create = `CREATE TABLE ${tableName} (sid varchar PRIMARY KEY, sess json NOT NULL, expire timestamp(6) NOT NULL)`;
    await pool.query(create);
    return new PgStore({ pool, tableName, pruneSessionInterval: false });
  };

  describeSessionStore({ describe, it }, 'connect-pg-simple', async () => {
    return opened(await open());
  });

  it('cannot list its sessions, and says which store lacks which method', async () => {
    const store = fromExpressStore(await open());
    await mustCreate(store);
    const error = {
      name: 'SessionArgumentError',
      message: expect.stringMatching(/PGStore.*no method all\(\)/) as string,
    };
    await expect(store.length()).rejects.toMatchObject(error);
    await expect(store.clear()).rejects.toMatchObject(error);
    await expect(store.list({ limit: 5 })).rejects.toMatchObject(error);
  });
});

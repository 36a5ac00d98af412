import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NodeWorker } from '../support/node-worker.js';

const WORKER = new URL('../integration/workers/disk-worker.mjs', import.meta.url);

let path: string;
const workers: NodeWorker[] = [];

beforeEach(() => {
  path = mkdtempSync(join(tmpdir(), 'sessionkit-disk-'));
});

afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.kill()));
  rmSync(path, { recursive: true });
});

/** The app in a process of its own. */
async function startApp() {
  const worker = await NodeWorker.start(WORKER);
  workers.push(worker);
  const url = await worker.call<string>('boot', { path }, { cookie: { secure: false } });
  return { worker, url };
}

async function whoAmI(url: string, cookie: string): Promise<unknown> {
  const response = await fetch(`${url}/me`, { headers: { cookie } });
  return response.json();
}

describe('an Express app with a DiskSessionStore', () => {
  it('logs in, is killed with -9 and started again: the cookie still works, and after an orderly restart too', async () => {
    const first = await startApp();
    const login = await fetch(`${first.url}/login`, { method: 'POST' });
    expect(login.status).toBe(201);
    const cookie = login.headers.getSetCookie()[0]!.split(';')[0]!;
    expect(await whoAmI(first.url, cookie)).toEqual({ userId: 'ada' });
    await first.worker.kill();

    const second = await startApp();
    expect(await whoAmI(second.url, cookie)).toEqual({ userId: 'ada' });
    await second.worker.call('shutdown');
    expect(await second.worker.stop()).toBe(0);

    const third = await startApp();
    expect(await whoAmI(third.url, cookie)).toEqual({ userId: 'ada' });
    expect(await whoAmI(third.url, `${cookie}x`)).not.toEqual({ userId: 'ada' });
  }, 60_000);
});

// sample/02-fastify as people run it: compiled, in a process of its own, asked by curl and fetch.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { attributesOf } from './support/http-client.js';
import { compileSample, SampleProcess } from './support/sample-process.js';

describe('sample 02-fastify', () => {
  let sample: SampleProcess;
  beforeAll(async () => {
    compileSample('02-fastify');
    sample = await SampleProcess.start('02-fastify');
  }, 120_000);
  afterAll(() => SampleProcess.stopAll());

  it('prints curl lines that work when pasted into a shell in order', async () => {
    const lines = sample.output.split('\n').filter((line) => /^\s*curl /.test(line));
    const { stdout, stderr } = await promisify(execFile)('bash', ['-euc', lines.join('\n')]);
    expect(stderr).toBe('');
    const answers = stdout.trim().split('\n');
    const me = { user: 'Ada', signedInAt: expect.stringMatching(/^\d{4}-.*Z$/) };
    expect(answers.map((line) => JSON.parse(line) as unknown)).toEqual([
      { user: 'Ada' },
      { ...me, views: 1 },
      { ...me, views: 2 },
      [
        expect.objectContaining({
          userAgent: expect.stringMatching(/^curl/),
          ip: '127.0.0.1',
          current: true,
        }),
      ],
    ]);
  });

  it('signs in with a cookie, counts each of 30 views that come at once, and signs out', async () => {
    const ben = await signIn('Ben');
    expect(attributesOf(ben.setCookie)).toEqual(['HttpOnly', 'Path=/', 'SameSite=Lax']);
    await Promise.all(Array.from({ length: 30 }, () => ben.get('/me')));
    const me = await ben.get('/me');
    expect([await me.json(), me.headers.getSetCookie()]).toEqual([
      expect.objectContaining({ user: 'Ben', views: 31 }),
      [],
    ]);
    const out = await ben.post('/sign-out');
    expect([out.status, out.headers.getSetCookie()]).toEqual([
      204,
      [expect.stringMatching(/^sid=; Max-Age=0;/)],
    ]);
    expect((await ben.get('/me')).status).toBe(401);
  });

  it('lists the devices of a user, and signs the others out', async () => {
    const [here, there] = [await signIn('Cleo'), await signIn('Cleo')];
    expect(await (await here.get('/devices')).json()).toHaveLength(2);
    expect(await (await here.post('/sign-out-others')).json()).toEqual({ ended: 1 });
    expect((await there.get('/me')).status).toBe(401);
    expect(await (await here.get('/devices')).json()).toEqual([expect.objectContaining({ current: true })]);
  });

  it('refuses what another site’s page sends, a wrong name, and whoever is not signed in', async () => {
    expect((await send('/sign-in', { name: 'Eve' }, { origin: 'https://evil.test' })).status).toBe(403);
    for (const body of [{}, { name: '' }, { name: ['x'] }, { name: 'a\0' }]) {
      expect((await send('/sign-in', body)).status, JSON.stringify(body)).toBe(400);
    }
    expect((await fetch(`${sample.url}/me`)).status).toBe(401);
  });

  it('stops on SIGTERM', () => sample.stop());

  function send(path: string, body: object, headers: Record<string, string> = {}): Promise<Response> {
    const json = { 'content-type': 'application/json' };
    return fetch(sample.url + path, {
      method: 'POST',
      headers: { ...json, ...headers },
      body: JSON.stringify(body),
    });
  }

  async function signIn(name: string) {
    const response = await send('/sign-in', { name });
    expect([response.status, await response.json()]).toEqual([200, { user: name }]);
    const [setCookie = ''] = response.headers.getSetCookie();
    const headers = { cookie: setCookie.split(';')[0]! };
    return {
      setCookie,
      get: (path: string) => fetch(sample.url + path, { headers }),
      post: (path: string) => fetch(sample.url + path, { method: 'POST', headers }),
    };
  }
});

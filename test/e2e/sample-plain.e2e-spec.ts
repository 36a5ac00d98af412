// sample/03-plain-http as people run it: compiled, in a process of its own, asked by curl and by the client of the
// example of generic-session.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { RedisServer } from '../support/redis-server.js';
import { ask, attributesOf, CookieJar } from './support/http-client.js';
import { compileSample, SampleProcess } from './support/sample-process.js';

const NAME = '03-plain-http';

describe.each(['memory', 'Redis'])('sample 03-plain-http on %s', (store) => {
  let server: RedisServer | undefined;
  let sample: SampleProcess;
  let env: Record<string, string> = {};
  beforeAll(async () => {
    compileSample(NAME);
    if (store === 'Redis') {
      server = await RedisServer.start();
      env = { REDIS_URL: server.url };
    }
    sample = await SampleProcess.start(NAME, env);
  }, 120_000);
  afterAll(async () => {
    await sample.stop();
    await server?.stop();
    if (store === 'Redis') await SampleProcess.stopAll();
  });

  it('prints curl lines that work when pasted into a shell in order', async () => {
    const lines = sample.output.split('\n').filter((line) => /^\s*curl /.test(line));
    expect(lines).toHaveLength(3);
    const { stdout, stderr } = await promisify(execFile)('bash', ['-euc', lines.join('\n')]);
    expect(stderr).toBe('');
    expect(stdout.trim().split('\n')).toEqual(['"bar"', '"bar"', '{"foo":"bar"}', '"bye"']);
  });

  it('says what the client of generic-session says: Set foo = bar, Fetched foo = bar', async () => {
    const jar = new CookieJar(sample.url);
    const said: string[] = [];
    expect((await jar.ask('/set/foo/bar')).status).toBe(200);
    said.push('Set foo = bar');
    const { body } = await jar.ask('/get/foo');
    said.push(`Fetched foo = ${String(body)}`);
    expect(said).toEqual(['Set foo = bar', 'Fetched foo = bar']);
  });

  it('keeps visitors apart, in a cookie named "s" that only those get who are written to', async () => {
    const [ada, ben] = [new CookieJar(sample.url), new CookieJar(sample.url)];
    const first = await ada.ask('/set/name/Ada');
    expect(first.cookies).toEqual([expect.stringMatching(/^s=[\w-]{44};/)]);
    expect(attributesOf(first.cookies[0]!)).toEqual(['HttpOnly', 'Path=/', 'SameSite=Lax']);
    const nobody = await ben.ask('/get/name');
    expect([nobody.text, nobody.cookies]).toEqual(['', []]);
    await ben.ask('/set/name/Ben');
    expect([(await ada.ask('/get/name')).body, (await ben.ask('/all')).body]).toEqual([
      'Ada',
      { name: 'Ben' },
    ]);
  });

  it('removes the cookie and the session with /destroy', async () => {
    const jar = new CookieJar(sample.url);
    await jar.ask('/set/foo/bar');
    const old = `s=${jar.value('s')}`;
    const { body, cookies } = await jar.ask('/destroy');
    expect([body, cookies]).toEqual(['bye', [expect.stringMatching(/^s=; Max-Age=0;/)]]);
    expect((await ask(`${sample.url}/all`, { headers: { cookie: old } })).body).toEqual({});
  });

  it('answers "ERROR" to anything else', async () => {
    const { status, body, cookies } = await ask(`${sample.url}/`);
    expect([status, body, cookies]).toEqual([200, 'ERROR', []]);
  });

  it('stops on SIGTERM, and a new process finds what Redis has kept', async () => {
    const jar = new CookieJar(sample.url);
    await jar.ask('/set/foo/bar');
    await sample.stop(); // within 3 s, or it throws
    sample = await SampleProcess.start(NAME, env);
    expect((await jar.at(sample.url).ask('/all')).body).toEqual(store === 'Redis' ? { foo: 'bar' } : {});
    if (server === undefined) return;
    const redis = new Redis(server.url);
    expect(await redis.dbsize()).toBeGreaterThan(0);
    redis.disconnect();
  });
});

// sample/01-basic as people run it: compiled, in processes of its own, asked by curl, fetch and a real browser.
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { chromium, type Browser, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { RedisServer } from '../support/redis-server.js';
import { waitFor } from '../support/wait-for.js';
import { compileSample, SampleProcess } from './support/sample-process.js';

const BROWSER = findBrowser();
const FLAGS =
  '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking ' +
  '--disable-component-update --disable-sync';

beforeAll(() => compileSample('01-basic'), 120_000);
afterAll(() => SampleProcess.stopAll());

describe('sample 01-basic without Redis', () => {
  let sample: SampleProcess;
  beforeAll(async () => {
    sample = await SampleProcess.start('01-basic');
  });

  it('prints three curl lines that work when pasted into a shell in order', async () => {
    const lines = sample.output.split('\n').filter((line) => /^\s*curl /.test(line));
    expect(lines).toHaveLength(3);
    const { stdout, stderr } = await promisify(execFile)('bash', ['-euc', lines.join('\n')]);
    expect(stderr).toBe('');
    const answers = stdout.trim().split('\n');
    expect(answers.map((line) => JSON.parse(line) as unknown)).toEqual([
      { user: 'Ada', session: expect.stringMatching(/^[\w-]{23}$/) },
      { user: 'Ada', views: 1 },
      { user: 'Ada', views: 2 },
      [expect.objectContaining({ device: 'curl', ip: '127.0.0.1', lastSeen: 'just now', current: true })],
    ]);
  });

  it('counts each of 30 views that come at the same time', async () => {
    const ben = await signIn(sample, 'Ben');
    await Promise.all(Array.from({ length: 30 }, () => ben.get('/me')));
    expect(await ben.json('/me')).toEqual({ user: 'Ben', views: 31 });
  });

  it('signs in with a new token each time, and refuses the browser’s earlier one from then on', async () => {
    const first = await signIn(sample, 'Cleo');
    await first.get('/me');
    const again = await signIn(sample, 'Cleo', first.cookie);
    expect(again.cookie).not.toBe(first.cookie);
    expect((await first.get('/me')).status).toBe(401);
    expect(await again.json('/me')).toEqual({ user: 'Cleo', views: 2 });
    const other = await signIn(sample, 'Dora', again.cookie);
    expect((await again.get('/me')).status).toBe(401);
    expect(await other.json('/me')).toEqual({ user: 'Dora', views: 1 });
  });

  it('never adopts a token that the client made up', async () => {
    const planted = `sid=${'A'.repeat(44)}`;
    const eve = await signIn(sample, 'Eve', planted);
    expect(eve.cookie).not.toBe(planted);
    expect((await new Client(sample, planted).get('/me')).status).toBe(401);
  });

  it('sets no cookie before something is stored; what a visitor chose then outlives the sign-in', async () => {
    const page = await fetch(sample.url);
    expect([page.status, page.headers.getSetCookie()]).toEqual([200, []]);
    expect(await page.text()).toContain('color-scheme: light dark"');
    const chosen = await post(`${sample.url}/theme`, 'theme=dark');
    const [setCookie = ''] = chosen.headers.getSetCookie();
    expect([chosen.status, await chosen.json()]).toEqual([303, { theme: 'dark' }]);
    const visitor = new Client(sample, setCookie.split(';')[0] ?? '');
    expect(await (await visitor.get('/')).text()).toContain('color-scheme: dark"');
    expect((await visitor.get('/me')).status, 'a session is not a user').toBe(401);

    const lou = await signIn(sample, 'Lou', visitor.cookie);
    expect(await (await lou.get('/')).text()).toContain('color-scheme: dark"');
    expect(await (await visitor.get('/')).text()).toContain('color-scheme: light dark"');
    expect((await post(`${sample.url}/theme`, 'theme=red')).status).toBe(400);
  });

  it('ends one session of the user’s own, but none of another user’s', async () => {
    const [here, there, stranger] = [
      await signIn(sample, 'Finn'),
      await signIn(sample, 'Finn'),
      await signIn(sample, 'Gus'),
    ];
    expect(await (await stranger.post(`/sessions/${there.id}/end`)).json()).toEqual({ ended: 0 });
    expect((await there.get('/me')).status).toBe(200);
    expect(await (await here.post(`/sessions/${there.id}/end`)).json()).toEqual({ ended: 1 });
    expect((await there.get('/me')).status).toBe(401);
    expect(await (await here.post(`/sessions/${there.id}/end`)).json()).toEqual({ ended: 0 });
    expect((await here.get('/me')).status).toBe(200);
  });

  it('clears the cookie at sign-out with the attributes it was set with, and at no other time', async () => {
    const attributes = ['HttpOnly', 'Path=/', 'SameSite=Lax'];
    const hana = await signIn(sample, 'Hana');
    expect(attributesOf(hana.setCookie)).toEqual(attributes);
    const out = await hana.post('/sign-out');
    const [cleared = ''] = out.headers.getSetCookie();
    expect(cleared).toMatch(/^sid=; Max-Age=0;.*Expires=Thu, 01 Jan 1970/);
    expect(attributesOf(cleared).filter((part) => !/^(Expires|Max-Age)=/.test(part))).toEqual(attributes);
    for (const path of ['/', '/me', '/sessions']) {
      expect((await hana.get(path)).headers.getSetCookie(), path).toEqual([]);
    }
    expect((await hana.post('/sign-out')).headers.getSetCookie()).toEqual([]);
  });

  it('answers a request whose session has ended with 401, or a browser with the way to the sign-in page', async () => {
    const ida = await signIn(sample, 'Ida');
    await ida.post('/sign-out');
    expect((await ida.post('/sessions/end-others')).status).toBe(401);
    const browser = await ida.post('/sessions/end-others', { accept: 'text/html,*/*;q=0.8' });
    expect([browser.status, browser.headers.get('location')]).toEqual([303, '/']);
    expect(await (await ida.get('/')).text()).toContain('Your name');
  });

  it('refuses a post that another site’s page sends, and takes one from its own page', async () => {
    const jon = await signIn(sample, 'Jon');
    for (const origin of ['https://evil.test', 'null', 'http://127.0.0.1:1']) {
      const refused = await jon.post('/sign-out', { origin });
      expect([refused.status, refused.headers.getSetCookie()], origin).toEqual([403, []]);
      expect(
        (await post(`${sample.url}/sign-in`, 'name=Eve', { origin })).status,
        'without a cookie too',
      ).toBe(403);
    }
    expect((await jon.post('/sign-out', { 'sec-fetch-site': 'cross-site' })).status).toBe(403);
    expect((await jon.post('/sign-out', { origin: sample.url })).status).toBe(303);
  });

  it('refuses a name that is missing, a list, too long or full of control characters', async () => {
    for (const body of [
      '',
      'name=',
      'name=%20',
      'name[]=x',
      'name[a]=x',
      `name=${'x'.repeat(51)}`,
      'name=a%00',
    ]) {
      expect((await post(`${sample.url}/sign-in`, body)).status, body).toBe(400);
    }
  });

  it('shows a name and a user agent full of markup as text', async () => {
    const name = `"><script>alert('1')</script>&`;
    const kim = await signIn(sample, name, undefined, { 'user-agent': name });
    const page = await (await kim.get('/')).text();
    expect(page).not.toContain('<script');
    expect(page).toContain('&#34;&#62;&#60;script&#62;alert(&#39;1&#39;)&#60;/script&#62;&#38;');
  });

  it('says in one line how to start when the port is taken or is none', async () => {
    const taken = await SampleProcess.fail('01-basic', { PORT: new URL(sample.url).port });
    expect(taken).toMatch(/^Port \d+ is taken\. Choose another one: PORT=3001 npm start\n$/);
    expect(await SampleProcess.fail('01-basic', { PORT: '70000' })).toMatch(
      /^PORT is 70000, which is no port\. .*\n$/,
    );
    expect(await SampleProcess.fail('01-basic', { PORT: 'http' })).toMatch(
      /^PORT is http, which is no port\. .*\n$/,
    );
  });

  it('starts while Redis is away, says so, and answers 503 where it needs a session', async () => {
    const lonely = await SampleProcess.start('01-basic', { REDIS_URL: 'redis://127.0.0.1:1' });
    expect(lonely.output).toMatch(/WARN.*Redis does not answer yet .*ECONNREFUSED/);
    expect((await fetch(lonely.url)).status).toBe(200);
    expect((await post(`${lonely.url}/sign-in`, 'name=Ada')).status).toBe(503);
    await lonely.stop();
  });
});

describe('the admin page of sample 01-basic', () => {
  let sample: SampleProcess;
  /** Each test has the sample for itself: the page lists everybody. */
  beforeEach(async () => {
    sample = await SampleProcess.start('01-basic', { RECENT_LOGIN: '2s' });
  });
  afterEach(() => sample.stop());

  it('is for those who are signed in as admin: 401 for visitors, 403 for other users, and nothing is changed', async () => {
    const [ada, admin] = [await signIn(sample, 'Ada'), await signIn(sample, 'Admin')];
    const [setCookie = ''] = (await post(`${sample.url}/theme`, 'theme=dark')).headers.getSetCookie();
    const visitor = new Client(sample, setCookie.split(';')[0] ?? '');
    const paths = ['/admin/users/end', `/admin/sessions/${ada.id}/end`, '/admin/end-all', '/admin/confirm'];
    for (const [client, status] of [
      [new Client(sample, ''), 401],
      [visitor, 401],
      [ada, 403],
      [admin, 403],
    ] as const) {
      expect((await client.get('/admin')).status).toBe(status);
      for (const path of paths) expect((await client.post(path, {}, 'user=Ada')).status, path).toBe(status);
    }
    expect((await ada.get('/me')).status).toBe(200);
  });

  it('lists users with their sessions, and counts all that live', async () => {
    const admin = await signIn(sample, 'admin');
    const firefox = 'Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0';
    const ada = await signIn(sample, 'Ada', undefined, { 'user-agent': firefox });
    const [ben, again] = [await signIn(sample, 'Ben'), await signIn(sample, 'Ben')];
    await post(`${sample.url}/theme`, 'theme=dark');
    const { text, users } = await adminPage(admin);
    expect(Object.keys(users).sort()).toEqual(['Ada', 'Ben', 'admin']);
    expect(users['Ada']).toEqual([ada.id]);
    expect(users['Ben']?.toSorted()).toEqual([ben.id, again.id].sort());
    expect(numberIn(text, 'live'), 'with the visitor who chose a theme').toBe(5);
    expect(numberIn(text, 'active')).toBe(5);
    expect(text).toMatch(/Firefox on Windows.*just now.*in 30 min/s);
    expect(await (await admin.get('/')).text()).toContain('href="/admin"');
    expect(await (await ada.get('/')).text()).not.toContain('href="/admin"');
  });

  it('shows twenty users at a time, each once, and refuses a cursor that it did not give', async () => {
    const admin = await signIn(sample, 'admin');
    for (let count = 0; count < 44; count++) await signIn(sample, `user ${count}`);
    const seen: string[] = [];
    let pages = 0;
    for (let next: string | undefined = '/admin'; next !== undefined; pages++) {
      const { text, users } = await adminPage(admin, next);
      seen.push(...Object.keys(users));
      next = /href="(\/admin\?after=[^"]+)" rel="next"/.exec(text)?.[1];
    }
    expect(pages).toBe(3);
    expect(seen).toHaveLength(45);
    expect(new Set(seen).size).toBe(45);
    for (const after of ['x', '', '%00', 'e30', 'W10'])
      expect((await admin.get(`/admin?after=${after}`)).status, after).toBe(400);
    expect((await admin.get('/admin?after=x&after=y')).status, 'a list').toBe(400);
  });

  it('ends one session, and all of a user', async () => {
    const admin = await signIn(sample, 'admin');
    const [one, two, three] = [
      await signIn(sample, 'Ben'),
      await signIn(sample, 'Ben'),
      await signIn(sample, 'Ben'),
    ];
    const ada = await signIn(sample, 'Ada');
    const { csrf } = await adminPage(admin);
    const end = async (path: string, body = '') => {
      const response = await admin.post(path, {}, `_csrf=${csrf}&${body}`);
      expect([response.status, response.headers.get('location')]).toEqual([303, '/admin']);
      return response.json();
    };
    expect(await end(`/admin/sessions/${one.id}/end`)).toEqual({ ended: 1 });
    expect(await end(`/admin/sessions/${one.id}/end`)).toEqual({ ended: 0 });
    expect(await end('/admin/sessions/no-id/end')).toEqual({ ended: 0 });
    expect([(await one.get('/me')).status, (await two.get('/me')).status]).toEqual([401, 200]);
    expect(await end('/admin/users/end', 'user=Ben')).toEqual({ ended: 2 });
    expect([(await two.get('/me')).status, (await three.get('/me')).status]).toEqual([401, 401]);
    expect(await end('/admin/users/end', 'user=Ben')).toEqual({ ended: 0 });
    expect([(await ada.get('/me')).status, (await admin.get('/me')).status]).toEqual([200, 200]);
    const { users } = await adminPage(admin);
    expect(Object.keys(users).sort()).toEqual(['Ada', 'admin']);
    expect((await admin.post('/admin/users/end', {}, `_csrf=${csrf}&user[]=Ada`)).status).toBe(400);
  });

  it('refuses a form without its token, or with that of another session', async () => {
    const [admin, other] = [await signIn(sample, 'admin'), await signIn(sample, 'admin')];
    const { csrf } = await adminPage(other);
    const paths = ['/admin/users/end', `/admin/sessions/${other.id}/end`, '/admin/end-all', '/admin/confirm'];
    for (const path of paths)
      for (const body of ['', '_csrf=', `_csrf=${csrf}`, `_csrf[]=${csrf}`])
        expect((await admin.post(path, {}, `${body}&user=admin`)).status, `${path} ${body}`).toBe(403);
    expect((await other.get('/me')).status).toBe(200);
  });

  it("ends everybody's only after a sign-in just now; an older one is asked to confirm, and gets a new token", async () => {
    let admin = await signIn(sample, 'admin');
    const ada = await signIn(sample, 'Ada');
    const page = await adminPage(admin);
    // The sign-in must become older than RECENT_LOGIN: its time is the store's, which nobody can set.
    await delay(2_100);
    const refused = await admin.post('/admin/end-all', {}, `_csrf=${page.csrf}`);
    expect([refused.status, await refused.json()]).toEqual([
      401,
      {
        statusCode: 401,
        message: 'Recent login required',
        error: 'Unauthorized',
        code: 'RECENT_LOGIN_REQUIRED',
      },
    ]);
    const asked = await admin.post('/admin/end-all', { accept: 'text/html' }, `_csrf=${page.csrf}`);
    const form = await asked.text();
    expect([asked.status, asked.headers.getSetCookie()]).toEqual([401, []]);
    expect(form).toContain('RECENT_LOGIN_REQUIRED');
    expect(form).toContain('action="/admin/confirm"');
    expect((await ada.get('/me')).status).toBe(200);

    const confirmed = await admin.post('/admin/confirm', {}, `_csrf=${csrfIn(form)}`);
    expect([confirmed.status, confirmed.headers.get('location')]).toEqual([303, '/admin']);
    const [setCookie = ''] = confirmed.headers.getSetCookie();
    expect((await admin.get('/me')).status, 'the token before').toBe(401);
    admin = new Client(sample, setCookie.split(';')[0] ?? '');
    const old = await admin.post('/admin/end-all', {}, `_csrf=${page.csrf}`);
    expect(old.status, 'the CSRF token before').toBe(403);
    const { csrf } = await adminPage(admin);
    const ended = await admin.post('/admin/end-all', {}, `_csrf=${csrf}`);
    expect([ended.status, await ended.json()]).toEqual([303, { ended: 2 }]);
    expect([(await ada.get('/me')).status, (await admin.get('/admin')).status]).toEqual([401, 401]);
    const next = await signIn(sample, 'admin');
    expect(numberIn((await adminPage(next)).text, 'live')).toBe(1);
  });

  it('shows names and user agents full of markup as text, and ends them by these names', async () => {
    const admin = await signIn(sample, 'admin');
    const name = `"><script>alert('1')</script>&amp;`;
    const kim = await signIn(sample, name, undefined, { 'user-agent': name });
    const { text, csrf } = await adminPage(admin);
    expect(text).not.toContain('<script');
    const escaped = '&#34;&#62;&#60;script&#62;alert(&#39;1&#39;)&#60;/script&#62;&#38;amp;';
    expect(text).toContain(`<h2>${escaped}</h2>`);
    expect(text).toContain(`name="user" value="${escaped}"`);
    expect(text).toContain(`title="${escaped}"`);
    const body = new URLSearchParams({ _csrf: csrf, user: name }).toString();
    expect(await (await admin.post('/admin/users/end', {}, body)).json()).toEqual({ ended: 1 });
    expect((await kim.get('/me')).status).toBe(401);
  });
});

describe('two processes of sample 01-basic on one Redis', () => {
  let redis: RedisServer;
  let one: SampleProcess;
  let two: SampleProcess;
  beforeAll(async () => {
    redis = await RedisServer.start();
    [one, two] = await Promise.all([
      SampleProcess.start('01-basic', { REDIS_URL: redis.url }),
      SampleProcess.start('01-basic', { REDIS_URL: redis.url }),
    ]);
  });
  afterAll(() => redis.stop());

  it('share a session and its counter', async () => {
    const here = await signIn(one, 'Ada');
    const there = here.at(two);
    expect(await there.json('/me')).toEqual({ user: 'Ada', views: 1 });
    expect(await here.json('/me')).toEqual({ user: 'Ada', views: 2 });
    await Promise.all([here, there, here, there, here, there].map((client) => client.get('/me')));
    expect(await there.json('/me')).toEqual({ user: 'Ada', views: 9 });
  });

  it('list each other’s sessions; "sign out all others" on one is effective on the other at once', async () => {
    const here = await signIn(one, 'Bea');
    const there = await signIn(two, 'Bea');
    await there.get('/me');
    expect(await there.json('/me'), 'cached by the second process').toMatchObject({ views: 2 });
    expect(await here.json('/sessions')).toHaveLength(2);
    expect(await (await here.post('/sessions/end-others')).json()).toEqual({ ended: 1 });
    await waitFor(async () => (await there.get('/me')).status === 401, { timeoutMs: 1000 });
    expect((await here.get('/me')).status).toBe(200);
    expect((await here.at(two).get('/me')).status).toBe(200);
  });

  it('answer 503 while Redis is silent, keep the cookie, and go on when it speaks again', async () => {
    const cal = await signIn(one, 'Cal');
    redis.pause().catch(() => undefined);
    try {
      const [json, page] = await Promise.all([cal.get('/me'), cal.get('/', { accept: 'text/html' })]);
      expect([json.status, page.status]).toEqual([503, 503]);
      expect(await json.json()).toEqual({
        message: 'Try again later',
        error: 'Service Unavailable',
        statusCode: 503,
      });
      expect(await page.text()).toContain('You are not signed out.');
      expect([...json.headers.getSetCookie(), ...page.headers.getSetCookie()]).toEqual([]);
    } finally {
      redis.resume();
    }
    await waitFor(async () => (await cal.get('/me')).status === 200, { timeoutMs: 2000 });
  });
});

if (BROWSER === null) {
  console.warn('sample in a browser: skipped, no Chromium on PATH. Install one: apt-get install -y chromium');
}

describe.skipIf(BROWSER === null)('sample 01-basic in a browser', () => {
  let sample: SampleProcess;
  let browser: Browser;
  const problems: string[] = [];

  beforeAll(async () => {
    sample = await SampleProcess.start('01-basic');
    browser = await chromium.launch({
      executablePath: BROWSER ?? '',
      args: FLAGS.split(' '),
    });
  }, 60_000);
  afterAll(() => browser?.close());
  afterEach(async () => {
    await Promise.all(browser.contexts().map((context) => context.close()));
  });

  /** A browser of somebody's: its cookies are its own. */
  async function open(url = sample.url): Promise<Page> {
    const page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(10_000);
    page.on('console', (message) => problems.push(message.text()));
    page.on('pageerror', (error) => problems.push(error.message));
    await page.goto(url);
    return page;
  }

  async function signInAs(name: string, url?: string): Promise<Page> {
    const page = await open(url);
    await page.getByLabel('Name').fill(name);
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('heading', { name: `Hello, ${name}` }).waitFor();
    return page;
  }

  const views = async (page: Page): Promise<number> => Number(await page.locator('#views').textContent());
  const rows = (page: Page) => page.locator('tbody tr');

  it('signs in, counts, lists a second browser, and signs that out at its next click', async () => {
    const first = await signInAs('Ada');
    expect(await views(first)).toBe(1);
    await first.getByRole('link', { name: 'Count one more' }).click();
    await first.reload();
    expect(await views(first)).toBe(3);
    expect(await rows(first).count()).toBe(1);

    const second = await signInAs('Ada');
    expect(await views(second)).toBe(1);
    await first.reload();
    expect(await rows(first).count()).toBe(2);
    expect(await rows(first).getByText('This one').count()).toBe(1);
    expect(await rows(first).first().textContent()).toMatch(/Chrome on .*just now.*This one/s);

    await first.getByRole('button', { name: 'Sign out all others' }).click();
    await first.getByText('Signed in here only.').waitFor();
    expect(await rows(first).count()).toBe(1);
    await second.getByRole('link', { name: 'Count one more' }).click();
    await second.getByLabel('Name').waitFor();

    await first.reload();
    expect(await views(first), 'the first goes on').toBe(6);
    expect(problems).toEqual([]);
  });

  it('ends one session by its button; a click on a button there then leads to the sign-in page', async () => {
    const first = await signInAs('Bo');
    const second = await signInAs('Bo');
    await first.reload();
    await first.getByRole('button', { name: 'End', exact: true }).click();
    await first.getByText('Signed in here only.').waitFor();
    await second.getByRole('button', { name: 'Sign out all others' }).click();
    await second.getByLabel('Name').waitFor();
    await first.reload();
    await first.getByRole('heading', { name: 'Hello, Bo' }).waitFor();
    expect(problems).toEqual([]);
  });

  it('as admin ends a session, confirms who it is, and ends everybody’s', async () => {
    const impatient = await SampleProcess.start('01-basic', { RECENT_LOGIN: '3s' });
    const ada = await signInAs('Ada', impatient.url);
    const ben = await signInAs('Ben', impatient.url);
    const page = await signInAs('admin', impatient.url);
    await page.getByRole('link', { name: 'Everybody’s sessions' }).click();
    const section = (name: string) => page.locator(`section[data-user="${name}"]`);
    await section('Ben').getByRole('button', { name: 'End', exact: true }).click();
    await section('Ben').waitFor({ state: 'detached' });
    await ben.reload();
    await ben.getByLabel('Name').waitFor();
    expect(problems).toEqual([]);

    await delay(3_100); // until the sign-in is older than RECENT_LOGIN
    await page.getByRole('button', { name: 'End everybody’s' }).click();
    expect(await page.locator('#code').textContent()).toBe('RECENT_LOGIN_REQUIRED');
    expect(problems.splice(0), 'the browser says so too').toEqual([expect.stringContaining('401')]);
    await page.getByRole('button', { name: 'Confirm' }).click();
    await page.getByRole('button', { name: 'End everybody’s' }).click();
    await page.getByLabel('Name').waitFor();
    await ada.reload();
    await ada.getByLabel('Name').waitFor();
    expect(problems).toEqual([]);
    await impatient.stop();
  });

  it('signs out: the cookie is gone, and "back" does not bring the page again', async () => {
    const page = await signInAs('Cy');
    const [cookie] = await page.context().cookies();
    expect(cookie).toMatchObject({ name: 'sid', httpOnly: true, sameSite: 'Lax', path: '/', expires: -1 });
    await page.getByRole('button', { name: 'Sign out', exact: true }).click();
    await page.getByLabel('Name').waitFor();
    expect(await page.context().cookies()).toEqual([]);
    await page.goBack();
    await page.getByLabel('Name').waitFor();
    expect(problems).toEqual([]);
  });

  it('stays signed in when it goes to another process on the same Redis, on another port', async () => {
    const redis = await RedisServer.start();
    try {
      const [one, two] = await Promise.all(
        [1, 2].map(() => SampleProcess.start('01-basic', { REDIS_URL: redis.url })),
      );
      const page = await signInAs('Di', one?.url);
      await page.goto(two?.url ?? '');
      await page.getByRole('heading', { name: 'Hello, Di' }).waitFor();
      expect(await views(page)).toBe(2);
      await page.getByRole('button', { name: 'Sign out', exact: true }).click();
      await page.getByLabel('Name').waitFor();
      await page.goto(one?.url ?? '');
      await page.getByLabel('Name').waitFor();
      await Promise.all([one?.stop(), two?.stop()]);
    } finally {
      await redis.stop();
    }
  });

  it('stops at once on SIGTERM, though browsers hold connections open', async () => {
    await open();
    await sample.stop();
  });
});

/** Something that keeps one cookie, and follows no redirect. */
class Client {
  constructor(
    private readonly sample: SampleProcess,
    readonly cookie: string,
    readonly setCookie = '',
    readonly id = '',
  ) {}

  at(sample: SampleProcess): Client {
    return new Client(sample, this.cookie);
  }

  get(path: string, headers: Record<string, string> = {}): Promise<Response> {
    return fetch(this.sample.url + path, { headers: { cookie: this.cookie, ...headers } });
  }

  async json(path: string): Promise<unknown> {
    const response = await this.get(path);
    expect(response.status, path).toBe(200);
    return response.json();
  }

  post(path: string, headers: Record<string, string> = {}, body = ''): Promise<Response> {
    return post(this.sample.url + path, body, { cookie: this.cookie, ...headers });
  }
}

function post(url: string, body: string, headers: Record<string, string> = {}): Promise<Response> {
  const form = { 'content-type': 'application/x-www-form-urlencoded' };
  return fetch(url, { method: 'POST', redirect: 'manual', headers: { ...form, ...headers }, body });
}

async function signIn(
  sample: SampleProcess,
  name: string,
  cookie?: string,
  headers: Record<string, string> = {},
): Promise<Client> {
  const body = new URLSearchParams({ name }).toString();
  const sent = cookie === undefined ? headers : { ...headers, cookie };
  const response = await post(`${sample.url}/sign-in`, body, sent);
  expect([response.status, response.headers.get('location')]).toEqual([303, '/']);
  const [setCookie = ''] = response.headers.getSetCookie();
  const { session } = (await response.json()) as { session: string };
  return new Client(sample, setCookie.split(';')[0] ?? '', setCookie, session);
}

/** A part of the admin page: its text, ids of sessions by name, the token of its forms. */
async function adminPage(
  client: Client,
  path = '/admin',
): Promise<{ text: string; users: Record<string, string[]>; csrf: string }> {
  const response = await client.get(path);
  expect(response.status, path).toBe(200);
  const text = await response.text();
  const users: Record<string, string[]> = {};
  for (const [, name = '', rest = ''] of text.matchAll(/<section data-user="([^"]*)">(.*?)<\/section>/gs))
    users[name] = [...rest.matchAll(/data-session="([\w-]{23})"/g)].map(([, id = '']) => id);
  return { text, users, csrf: csrfIn(text) };
}

function csrfIn(page: string): string {
  const token = /name="_csrf" value="([\w-]{43})"/.exec(page)?.[1];
  if (token === undefined) throw new Error('The page has no CSRF token');
  return token;
}

function numberIn(page: string, id: string): number {
  return Number(new RegExp(`id="${id}">(\\d+)<`).exec(page)?.[1]);
}

function attributesOf(setCookie: string): string[] {
  return setCookie.split('; ').slice(1).sort();
}

function findBrowser(): string | null {
  for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
    for (const directory of (process.env.PATH ?? '').split(delimiter)) {
      const candidate = join(directory, name);
      try {
        accessSync(candidate, constants.X_OK);
        return candidate;
      } catch {
        // not in this directory
      }
    }
  }
  return null;
}

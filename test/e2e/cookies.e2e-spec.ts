import 'reflect-metadata';
import { execFile, execFileSync } from 'node:child_process';
import { accessSync, constants, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { Controller, Get, Logger, Module, Post } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter, type NestExpressApplication } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import fc from 'fast-check';
import { Redis } from 'ioredis';
import { chromium, type Browser } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { HttpSessions } from '../../lib/http/http-sessions.js';
import type { HttpRequest } from '../../lib/http/http-request.js';
import { CookieTransport } from '../../lib/http/token-transport.js';
import {
  ActiveSession,
  Session,
  SessionModule,
  SessionOptionsError,
  type SessionCookieOptions,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { resolveSessionOptions } from '../../lib/options/resolve-session-options.js';
import { RedisServer } from '../support/redis-server.js';
import { ask, attributesOf, CookieJar, cookieOf } from './support/http-client.js';
import { createApp, Logs, PLATFORMS, startApp, type Data, type Platform } from './support/test-app.js';
import { untilLive } from './support/test-redis.js';

const SECRET = 'thirty-two characters of secrets';
const NEWER = 'another thirty-two characters...';
const NOBODYS = 'A'.repeat(44);

@Controller()
class CookieController {
  @Get('views')
  views(@Session() session: ActiveSession<Data>) {
    session.data.views = (session.data.views ?? 0) + 1;
    return { views: session.data.views };
  }

  @Get('look')
  look(@Session() session: ActiveSession<Data>) {
    return { stored: session.isStored, views: session.data.views ?? 0 };
  }

  @Get('page')
  page() {
    return '<!doctype html><title>A page</title>';
  }

  @Post('logout')
  async logout(@Session() session: ActiveSession<Data>) {
    await session.destroy();
    return { ok: true };
  }
}

const CONTROLLERS = { controllers: [CookieController] };

const start = (platform: Platform, session: SessionModuleOptions = {}) =>
  startApp(platform, { session, ...CONTROLLERS });

/** Runs with NODE_ENV as it is in production; afterwards it is what it was. */
async function inProduction<R>(work: () => Promise<R>): Promise<R> {
  const before = process.env.NODE_ENV;
  process.env.NODE_ENV = 'production';
  try {
    return await work();
  } finally {
    if (before === undefined) delete process.env.NODE_ENV;
    else process.env.NODE_ENV = before;
  }
}

interface Surroundings {
  trustProxy?: boolean | number;
  https?: { key: Buffer; cert: Buffer };
}

/** An app that is initialized, as `listen` does it first; rejects with what stopped the boot. */
async function boot(
  platform: Platform,
  { trustProxy, https }: Surroundings,
  session: SessionModuleOptions = {},
) {
  class AppModule {}
  Module({ imports: [SessionModule.forRoot(session)], controllers: [CookieController] })(AppModule);
  const logs = new Logs();
  const options = { logger: logs, abortOnError: false, ...(https && { httpsOptions: https }) };
  const app =
    platform === 'express'
      ? await NestFactory.create(AppModule, new ExpressAdapter(), options)
      : await NestFactory.create(
          AppModule,
          new FastifyAdapter({
            ...(trustProxy !== undefined && { trustProxy }),
            ...(https && { https }),
          } as ConstructorParameters<typeof FastifyAdapter>[0]),
          options,
        );
  onTestFinished(() => app.close());
  if (platform === 'express' && trustProxy !== undefined)
    (app as unknown as NestExpressApplication).set('trust proxy', trustProxy);
  await app.init();
  return { app, logs };
}

let scratch: string;
let tls: { key: Buffer; cert: Buffer };
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'sessionkit-cookies-'));
  const [key, cert] = [join(scratch, 'key.pem'), join(scratch, 'cert.pem')];
  execFileSync(
    'openssl',
    ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
      .concat(['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'])
      .concat(['-keyout', key, '-out', cert]),
    { stdio: 'ignore' },
  );
  tls = { key: readFileSync(key), cert: readFileSync(cert) };
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe.each(PLATFORMS)('the cookie over %s', (platform) => {
  it.each<[cookie: SessionCookieOptions, name: string, attributes: string[]]>([
    [{}, 'sid', ['HttpOnly', 'Path=/', 'SameSite=Lax']],
    [{ secure: false }, 'sid', ['HttpOnly', 'Path=/', 'SameSite=Lax']],
    [{ secure: true }, '__Host-sid', ['HttpOnly', 'Path=/', 'SameSite=Lax', 'Secure']],
    [{ secure: true, path: '/app' }, '__Secure-sid', ['HttpOnly', 'Path=/app', 'SameSite=Lax', 'Secure']],
    [
      { secure: true, domain: 'example.com' },
      '__Secure-sid',
      ['Domain=example.com', 'HttpOnly', 'Path=/', 'SameSite=Lax', 'Secure'],
    ],
    [{ name: 'mine', httpOnly: false, sameSite: 'strict' }, 'mine', ['Path=/', 'SameSite=Strict']],
    [
      { secure: true, sameSite: 'none', partitioned: true },
      '__Host-sid',
      ['HttpOnly', 'Partitioned', 'Path=/', 'SameSite=None', 'Secure'],
    ],
  ])('%j: set as %s with %j, and cleared with the same', async (cookie, name, attributes) => {
    const app = await start(platform, { cookie });
    const set = await ask(`${app.url}/views`);
    const token = cookieOf(set, name);
    expect(token).toMatch(/^[\w-]{44}$/);
    expect(attributesOf(set.cookies[0]!)).toEqual(attributes);
    const headers = { cookie: `${name}=${token}` };
    expect((await ask(`${app.url}/look`, { headers })).body).toEqual({ stored: true, views: 1 });
    const out = await ask(`${app.url}/logout`, { method: 'POST', headers });
    expect(out.cookies).toHaveLength(1);
    expect(out.cookies[0]).toMatch(new RegExp(`^${name}=;`));
    expect(attributesOf(out.cookies[0]!)).toEqual(
      [...attributes, 'Expires=Thu, 01 Jan 1970 00:00:00 GMT', 'Max-Age=0'].sort(),
    );
  });

  it('with maxAge says it twice, for old browsers too', async () => {
    const app = await start(platform, { cookie: { maxAge: '10m' } });
    const [line = ''] = (await ask(`${app.url}/views`)).cookies;
    expect(line).toMatch(/Max-Age=600;/);
    const expires = Date.parse(/Expires=([^;]+)/.exec(line)![1]!);
    expect(Math.abs(expires - Date.now() - 600_000)).toBeLessThan(3_000);
  });

  describe("with secure: 'auto' in production", () => {
    it.each(['auto', undefined] as const)(
      '(%s) the boot stops without TLS and trusted proxy, and says what to do',
      async (secure) => {
        const stopped = inProduction(() => boot(platform, {}, { cookie: { ...(secure && { secure }) } }));
        const error = await stopped.then(
          () => null,
          (caught: unknown) => caught,
        );
        expect(error).toBeInstanceOf(SessionOptionsError);
        expect((error as SessionOptionsError).option).toBe('cookie.secure');
        expect((error as Error).message).toMatch(/trust proxy.*trustProxy: true.*true or false/s);
      },
    );

    it.each([true, 1] as const)('it goes on behind a proxy that the app trusts (%s)', async (trustProxy) => {
      const { logs } = await inProduction(() => boot(platform, { trustProxy }));
      expect(logs.matching(/cookie/)).toEqual([]);
    });

    it('it goes on when the app speaks TLS itself', async () => {
      const { app } = await inProduction(() => boot(platform, { https: tls }));
      await app.listen(0, '127.0.0.1');
      const { address } = { address: app.getHttpServer().address() as { port: number } };
      const { stdout } = await promisify(execFile)('curl', [
        '-skD',
        '-',
        `https://127.0.0.1:${address.port}/views`,
      ]);
      expect(stdout).toMatch(
        /^set-cookie: __Host-sid=[\w-]{44}; Path=\/; HttpOnly; Secure; SameSite=Lax\r$/im,
      );
    });

    it('does not matter where no cookie is used', async () => {
      await inProduction(() => boot(platform, {}, { transport: 'bearer' }));
    });

    it('explicit secure: false is obeyed, with a warning', async () => {
      const { logs } = await inProduction(() => boot(platform, {}, { cookie: { secure: false } }));
      expect(logs.matching(/^warn .*cookie\.secure is false/)).toHaveLength(1);
    });

    it('explicit secure: true is obeyed, without a warning', async () => {
      const { logs } = await inProduction(() => boot(platform, {}, { cookie: { secure: true } }));
      expect(logs.matching(/cookie\.secure/)).toEqual([]);
    });
  });

  it.each<SessionCookieOptions>([
    { name: '__Host-sid', secure: true, domain: 'example.com' },
    { sameSite: 'none' },
    { partitioned: true },
    { secrets: 'too short' },
  ])('%j stops the boot', async (cookie) => {
    await expect(createApp(platform, { session: { cookie }, ...CONTROLLERS })).rejects.toThrow(
      SessionOptionsError,
    );
  });

  describe('with secrets', () => {
    it('is signed, and found again; not without its signature, nor with that of another secret or name', async () => {
      const app = await start(platform, { cookie: { secrets: SECRET } });
      const value = cookieOf(await ask(`${app.url}/views`))!;
      expect(value).toMatch(/^[\w-]{44}\.[\w-]{43}$/);
      const look = async (cookie: string) => (await ask(`${app.url}/look`, { headers: { cookie } })).body;
      expect(await look(`sid=${value}`)).toEqual({ stored: true, views: 1 });
      const [token = '', signature = ''] = value.split('.');
      const foreign = await start(platform, { cookie: { secrets: NEWER } });
      const renamed = await start(platform, { cookie: { secrets: SECRET, name: 'other' } });
      for (const forged of [
        token,
        `${token}.`,
        `${token}.${signature.slice(1)}`,
        `${token}.${'A'.repeat(43)}`,
        `${NOBODYS}.${signature}`,
        cookieOf(await ask(`${foreign.url}/views`))!,
        cookieOf(await ask(`${renamed.url}/views`), 'other')!,
      ])
        expect(await look(`sid=${forged}`), forged).toEqual({ stored: false, views: 0 });
      expect(await look(`sid=${encodeURIComponent(value)}`), 'as a client may encode it').toMatchObject({
        stored: true,
      });
    });

    it('rotated: the old ones’ cookies are taken until they are dropped', async () => {
      const redis = await RedisServer.start();
      onTestFinished(() => redis.stop());
      const app = async (...secrets: string[]) => start(platform, { redis: redis.url, cookie: { secrets } });
      const jar = new CookieJar((await app(SECRET)).url);
      await jar.ask('/views');
      const between = await app(NEWER, SECRET);
      expect((await jar.at(between.url).ask('/look')).body).toEqual({ stored: true, views: 1 });
      const after = await app(NEWER);
      expect((await jar.at(after.url).ask('/look')).body).toEqual({ stored: false, views: 0 });
      const newer = new CookieJar(between.url);
      await newer.ask('/views');
      expect((await newer.at(after.url).ask('/look')).body).toEqual({ stored: true, views: 1 });
    });

    it('forged cookies cost Redis nothing', async () => {
      const redis = await RedisServer.start();
      onTestFinished(() => redis.stop());
      const app = await start(platform, {
        redis: redis.url,
        cookie: { secrets: SECRET },
        coherence: { leaseMs: 60_000, heartbeatMs: 30_000 }, // no heartbeat within the test, and no sweep
        sweepInterval: '1h',
      });
      await untilLive(app);
      const client = new Redis(redis.url);
      onTestFinished(() => client.disconnect());
      await client.ping();
      await client.call('CONFIG', 'RESETSTAT');
      for (let round = 0; round < 50; round++) {
        const forged = `${app.sessions.unstored({ onUse: () => undefined, metadata: () => ({}) }).token}.${'A'.repeat(43)}`;
        const answer = await ask(`${app.url}/look`, { headers: { cookie: `sid=${forged}` } });
        expect(answer.body).toEqual({ stored: false, views: 0 });
      }
      const stats = await client.info('commandstats');
      expect([...stats.matchAll(/^cmdstat_([^:]+)/gm)].map(([, name]) => name)).toEqual(['config|resetstat']);
    });
  });

  it('from garbage of any kind: no crash, nothing adopted, nothing set', async () => {
    const app = await start(platform);
    const planted = NOBODYS;
    const value = fc.oneof(
      fc.constantFrom(
        '',
        '"',
        '""',
        '%',
        '%E0%A4%A',
        '%00',
        '=',
        '==',
        `"${planted}"`,
        planted,
        '\t',
        'j:{}',
        's:x.y',
      ),
      fc.string({ maxLength: 40 }),
      fc.constantFrom(4_000, 12_000).map((length) => 'x'.repeat(length)),
    );
    const name = fc.constantFrom('sid', 'SID', '__proto__', 'constructor', 'toString', 'a', '', '__Host-sid');
    const header = fc
      .array(fc.tuple(name, value, fc.constantFrom('; ', ';', ' ;; ', ', ')), { maxLength: 5 })
      .map((parts) => parts.map(([key, text, between]) => `${key}=${text}${between}`).join(''))
      // What Node's client can send at all, and its server takes (16 KiB of headers).
      .map((text) => text.replace(/[^\t\x20-\x7e]/g, '').slice(0, 14_000));
    await fc.assert(
      fc.asyncProperty(header, async (cookie) => {
        const look = await ask(`${app.url}/look`, { headers: { cookie } });
        expect([look.status, look.body, look.cookies]).toEqual([200, { stored: false, views: 0 }, []]);
      }),
      { numRuns: 150 },
    );
    const huge = await ask(`${app.url}/look`, { headers: { cookie: `sid=${'x'.repeat(65_536)}` } });
    expect(huge.status, 'refused by Node itself').toBe(431);
    const adopted = await ask(`${app.url}/views`, { headers: { cookie: `sid=${planted}` } });
    expect(cookieOf(adopted)).not.toBe(planted);
    expect(app.logs.matching(/^(warn|error)/)).toEqual([]);
  });
});

describe('CookieTransport', () => {
  const transport = (secrets?: string) =>
    new CookieTransport(resolveSessionOptions({ cookie: { ...(secrets && { secrets }) } }).cookie);

  it('reads 64 KB, duplicates, quotes and prototype names without throwing, and never an inherited value', () => {
    const long = 'x'.repeat(65_536);
    for (const one of [transport(), transport(SECRET)]) {
      for (const cookie of [
        `sid=${long}`,
        `${long}=1`,
        long,
        `sid${long}`,
        ';'.repeat(65_536),
        `sid=1; `.repeat(9_000),
      ]) {
        const read = one.read({ headers: { cookie } });
        expect(read === undefined || typeof read === 'string').toBe(true);
      }
    }
    for (const name of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
      const named = new CookieTransport(resolveSessionOptions({ cookie: { name } }).cookie);
      expect(named.read({ headers: { cookie: `x${name}x=1` } }), name).toBeUndefined();
      expect(named.read({ headers: { cookie: `${name}=token` } }), name).toBe('token');
    }
    expect(({} as Record<string, unknown>).token).toBeUndefined();
  });

  it('never throws, whatever the header is', () => {
    const signed = transport(SECRET);
    const plain = transport();
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.string({ unit: 'binary' }), fc.webUrl()), (text) => {
        for (const cookie of [text, `sid=${text}`, `a=b; sid=${text}; sid=x`]) {
          const value = plain.read({ headers: { cookie } });
          expect(value === undefined || typeof value === 'string').toBe(true);
          expect(signed.read({ headers: { cookie } })).toBeUndefined();
        }
      }),
    );
    expect(plain.read({ headers: { cookie: ['sid=a', 'sid=b'] } })).toBeUndefined();
  });

  it('writes a value that survives its own reading', () => {
    for (const one of [transport(), transport(SECRET)]) {
      const lines: string[] = [];
      one.write((_name, value) => lines.push(value), { token: NOBODYS, expiresIn: null });
      expect(one.read({ headers: { cookie: lines[0]!.split(';')[0] } })).toBe(NOBODYS);
    }
  });
});

describe('where a cookie may be written', () => {
  let said: [level: string, message: string][];
  beforeEach(() => {
    said = [];
    for (const level of ['warn', 'error'] as const)
      vi.spyOn(Logger.prototype, level).mockImplementation(
        (message: unknown) => void said.push([level, String(message)]),
      );
  });

  const requestFrom = (remoteAddress: string, more: object = {}): HttpRequest =>
    ({ headers: {}, socket: { remoteAddress }, ...more }) as unknown as HttpRequest;

  function writer(cookie: SessionCookieOptions) {
    const options = resolveSessionOptions({ cookie });
    const http = new HttpSessions(null as never, [], options);
    const transport = new CookieTransport(options.cookie);
    return (request: HttpRequest) => http.mayWrite(transport, request);
  }

  it.each(['127.0.0.1', '127.8.9.10', '::1', '::ffff:127.0.0.1'])(
    "'auto': to loopback (%s), without a word",
    (address) => {
      expect(writer({})(requestFrom(address))).toBe(true);
      expect(said).toEqual([]);
    },
  );

  it.each(['10.0.0.1', '192.168.1.5', '::ffff:10.0.0.1', '2001:db8::1', '128.0.0.1', '1.127.0.0.1'])(
    "'auto': not over plain HTTP to another machine (%s), which is said once",
    (address) => {
      const mayWrite = writer({});
      expect([mayWrite(requestFrom(address)), mayWrite(requestFrom(address))]).toEqual([false, false]);
      expect(said).toEqual([['error', expect.stringMatching(/No session cookie.*cookie\.secure: false/s)]]);
    },
  );

  it.each<[string, object]>([
    ['of the app’s own', { socket: { remoteAddress: '10.0.0.1', encrypted: true } }],
    ['of a proxy that the framework trusts', { protocol: 'https' }],
    ['of the app’s own, over Fastify', { raw: { socket: { remoteAddress: '10.0.0.1', encrypted: true } } }],
  ])('over TLS %s it is, secure or not', (_whose, more) => {
    for (const cookie of [{}, { secure: true }, { secure: false }])
      expect(writer(cookie)(requestFrom('10.0.0.1', more))).toBe(true);
    expect(said).toEqual([]);
  });

  it('does not believe X-Forwarded-Proto by itself', () => {
    const request = requestFrom('10.0.0.1', { headers: { 'x-forwarded-proto': 'https' } });
    expect(writer({})(request)).toBe(false);
  });

  it('secure: true over plain HTTP to another machine: sent, and warned about once, with the fix', () => {
    const mayWrite = writer({ secure: true });
    for (let round = 0; round < 3; round++) expect(mayWrite(requestFrom('10.0.0.1'))).toBe(true);
    expect(said).toEqual([
      ['warn', expect.stringMatching(/Secure cookie.*plain HTTP.*trust proxy.*trustProxy/s)],
    ]);
  });

  it('secure: false over plain HTTP to another machine: sent, without a word', () => {
    expect(writer({ secure: false })(requestFrom('10.0.0.1'))).toBe(true);
    expect(said).toEqual([]);
  });
});

describe('clients that are real', () => {
  it.each(PLATFORMS)('curl with a cookie jar, over %s', async (platform) => {
    const app = await start(platform, { cookie: { maxAge: '10m' } });
    const jar = join(scratch, `${platform}.jar`);
    const curl = async (path: string, ...args: string[]) =>
      (await promisify(execFile)('curl', ['-sb', jar, '-c', jar, ...args, app.url + path])).stdout;
    expect(await curl('/views')).toBe('{"views":1}');
    expect(await curl('/views')).toBe('{"views":2}');
    expect(readFileSync(jar, 'utf8')).toMatch(
      /^#HttpOnly_127\.0\.0\.1\tFALSE\t\/\tFALSE\t\d+\tsid\t[\w-]{44}$/m,
    );
    expect(await curl('/logout', '-X', 'POST')).toBe('{"ok":true}');
    expect(readFileSync(jar, 'utf8')).not.toContain('sid');
    expect(await curl('/views')).toBe('{"views":1}');
  });
});

const BROWSER = findBrowser();
if (BROWSER === null) {
  console.warn(
    'cookies in a browser: skipped, no Chromium on PATH. Install one: apt-get install -y chromium',
  );
}

describe.skipIf(BROWSER === null)('Chromium', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({
      executablePath: BROWSER ?? '',
      args: [
        '--headless',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--disable-background-networking',
      ],
    });
  }, 60_000);
  afterAll(() => browser?.close());
  afterEach(async () => {
    await Promise.all(browser.contexts().map((context) => context.close()));
  });

  async function visit(url: string) {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    await page.goto(`${url}/views`);
    return { context, page };
  }

  it.each(PLATFORMS)(
    'keeps the default cookie from scripts and until it is closed, over %s',
    async (platform) => {
      const app = await start(platform);
      const { context, page } = await visit(app.url);
      expect(await context.cookies()).toEqual([
        expect.objectContaining({
          name: 'sid',
          value: expect.stringMatching(/^[\w-]{44}$/),
          domain: '127.0.0.1',
          path: '/',
          expires: -1,
          httpOnly: true,
          secure: false,
          sameSite: 'Lax',
        }),
      ]);
      await page.goto(`${app.url}/page`);
      expect(await page.evaluate(() => document.cookie)).toBe('');
      await page.goto(`${app.url}/views`);
      expect(await page.textContent('body')).toContain('"views":2');
      const status = await page.evaluate(async () => (await fetch('/logout', { method: 'POST' })).status);
      expect([status, await context.cookies()]).toEqual([201, []]);
    },
  );

  it.each(PLATFORMS)(
    'keeps one with a life of its own for that long, and renews it, over %s',
    async (platform) => {
      const app = await start(platform, {
        cookie: { maxAge: '10m', sameSite: 'strict', httpOnly: false },
        touchInterval: 0,
      });
      const { context, page } = await visit(app.url);
      const [first] = await context.cookies();
      expect(first).toMatchObject({ httpOnly: false, sameSite: 'Strict' });
      expect(Math.abs(first!.expires - Date.now() / 1000 - 600)).toBeLessThan(5);
      await page.waitForTimeout(1_100); // cookies count whole seconds
      await page.goto(`${app.url}/look`);
      const [renewed] = await context.cookies();
      expect(renewed?.value).toBe(first?.value);
      expect(renewed!.expires).toBeGreaterThan(first!.expires);
    },
  );

  it.each<[cookie: SessionCookieOptions, name: string, attributes: object]>([
    [{}, '__Host-sid', { secure: true, sameSite: 'Lax', path: '/' }],
    [{ path: '/views' }, '__Secure-sid', { path: '/views', secure: true }],
    [{ sameSite: 'none', secure: true, partitioned: true }, '__Host-sid', { sameSite: 'None', secure: true }],
    [
      { secrets: SECRET, secure: true },
      '__Host-sid',
      { value: expect.stringMatching(/^[\w-]{44}\.[\w-]{43}$/) },
    ],
  ])('takes %j over TLS as %s', async (cookie, name, attributes) => {
    for (const platform of PLATFORMS) {
      const { app } = await inProduction(() => boot(platform, { https: tls }, { cookie }));
      await app.listen(0, '127.0.0.1');
      const { port } = app.getHttpServer().address() as { port: number };
      const { context, page } = await visit(`https://localhost:${port}`);
      expect(await context.cookies()).toEqual([
        expect.objectContaining({ name, httpOnly: true, ...attributes }),
      ]);
      await page.goto(`https://localhost:${port}/views`);
      expect(await page.textContent('body')).toContain('"views":2');
    }
  });
});

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

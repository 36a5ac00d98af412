import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SessionOptionsError } from '../../../lib/errors/caller.errors.js';
import { resolveSessionOptions } from '../../../lib/options/resolve-session-options.js';
import type { SessionModuleOptions } from '../../../lib/options/session-options.interface.js';

/** Options as they come from JavaScript, environment variables and configuration files. */
const resolve = (input: unknown) => resolveSessionOptions(input as SessionModuleOptions);
const cookieFor = (cookie?: unknown) => resolve({ cookie }).cookie;

function refusal(input: unknown): SessionOptionsError {
  try {
    resolve(input);
  } catch (error) {
    expect(error).toBeInstanceOf(SessionOptionsError);
    return error as SessionOptionsError;
  }
  throw new Error('the options were accepted');
}

const SECRET = 'thirty-two characters of secrets';

let environment: string | undefined;
beforeEach(() => (environment = process.env.NODE_ENV));
afterEach(() => {
  if (environment === undefined) delete process.env.NODE_ENV;
  else process.env.NODE_ENV = environment;
});

describe('the option cookie', () => {
  it('has these defaults', () => {
    expect(cookieFor()).toEqual({
      name: 'sid',
      secure: false,
      sameSite: 'lax',
      httpOnly: true,
      path: '/',
      domain: undefined,
      maxAgeMs: undefined,
      partitioned: false,
      secrets: [],
      decided: true,
    });
  });

  it('is secure in production, by default and with "auto"', () => {
    process.env.NODE_ENV = 'production';
    for (const cookie of [undefined, {}, { secure: 'auto' }])
      expect(cookieFor(cookie)).toMatchObject({ name: '__Host-sid', secure: true, decided: true });
    expect(cookieFor({ secure: false })).toMatchObject({ name: 'sid', secure: false, decided: false });
    expect(cookieFor({ secure: true })).toMatchObject({ secure: true, decided: false });
  });

  it.each(['development', 'test', 'staging', 'Production', undefined])(
    'is not secure with "auto" under NODE_ENV=%s',
    (name) => {
      if (name === undefined) delete process.env.NODE_ENV;
      else process.env.NODE_ENV = name;
      expect(cookieFor({ secure: 'auto' }).secure).toBe(false);
    },
  );

  it.each([
    [{ secure: true }, '__Host-sid'],
    [{ secure: true, path: '/' }, '__Host-sid'],
    [{ secure: true, path: '/app' }, '__Secure-sid'],
    [{ secure: true, domain: 'example.com' }, '__Secure-sid'],
    [{ secure: true, domain: 'example.com', path: '/app' }, '__Secure-sid'],
    [{ secure: false }, 'sid'],
    [{ secure: false, domain: 'example.com' }, 'sid'],
    [{ secure: true, name: 'mine' }, 'mine'],
    [{ secure: true, name: '__Secure-mine' }, '__Secure-mine'],
    [{ secure: true, name: '__Host-mine' }, '__Host-mine'],
  ])('%j: the strictest name that they allow is %s', (cookie, name) => {
    expect(cookieFor(cookie).name).toBe(name);
  });

  it('takes durations for maxAge', () => {
    expect(cookieFor({ maxAge: '30d' }).maxAgeMs).toBe(30 * 86_400_000);
    expect(cookieFor({ maxAge: 60_000 }).maxAgeMs).toBe(60_000);
    expect(cookieFor({ maxAge: '400d' }).maxAgeMs).toBe(400 * 86_400_000);
  });

  it('takes one secret or several, and keeps a copy of its own', () => {
    expect(cookieFor({ secrets: SECRET }).secrets).toEqual([SECRET]);
    const secrets = [SECRET, `${SECRET}2`];
    const resolved = cookieFor({ secrets }).secrets;
    secrets.push('later');
    expect(resolved).toEqual([SECRET, `${SECRET}2`]);
    expect(Object.isFrozen(resolved)).toBe(true);
  });

  it('takes an unset environment variable, `undefined`, as absent everywhere', () => {
    const names = [
      'name',
      'secure',
      'sameSite',
      'httpOnly',
      'path',
      'domain',
      'maxAge',
      'partitioned',
      'secrets',
    ];
    expect(cookieFor(Object.fromEntries(names.map((name) => [name, undefined])))).toEqual(cookieFor());
  });

  it('is frozen', () => {
    expect(Object.isFrozen(cookieFor())).toBe(true);
  });

  it.each<[title: string, cookie: unknown, option: string, value: RegExp, fix: RegExp]>([
    ['not an object', 'sid', 'cookie', /"sid"/, /Write \{/],
    ['null', null, 'cookie', /null/, /Write \{/],
    ['an unknown key', { maxage: 1 }, 'cookie.maxage', /not known/, /Did you mean "cookie\.maxAge"/],
    ['expires', { expires: new Date(0) }, 'cookie.expires', /not known/, /Known here: name/],
    ['a name with a blank', { name: 'my sid' }, 'cookie.name', /"my sid"/, /Write e\.g\. "sid"/],
    ['a name with =', { name: 'a=b' }, 'cookie.name', /"a=b"/, /Write e\.g\./],
    ['a name with ;', { name: 'a;b' }, 'cookie.name', /"a;b"/, /Write e\.g\./],
    ['an empty name', { name: '' }, 'cookie.name', /""/, /Write e\.g\./],
    ['a name with a line end', { name: 'sid\n' }, 'cookie.name', /"sid\\n"/, /Write e\.g\./],
    ['a name that is no string', { name: 5 }, 'cookie.name', /5/, /Write e\.g\./],
    ['secure: a string', { secure: 'true' }, 'cookie.secure', /"true"/, /compare them with 'true'/],
    ['secure: null', { secure: null }, 'cookie.secure', /null/, /'auto'/],
    ['sameSite: true', { sameSite: true }, 'cookie.sameSite', /true/, /Write e\.g\. 'lax'/],
    ['sameSite: Lax', { sameSite: 'Lax' }, 'cookie.sameSite', /"Lax"/, /Write e\.g\. 'lax'/],
    ['httpOnly: 0', { httpOnly: 0 }, 'cookie.httpOnly', /0/, /true or false/],
    ['path: relative', { path: 'app' }, 'cookie.path', /"app"/, /Write e\.g\. "\/"/],
    ['path: empty', { path: '' }, 'cookie.path', /""/, /Write e\.g\./],
    ['path: with ;', { path: '/a; Domain=evil.test' }, 'cookie.path', /Domain/, /Write e\.g\./],
    ['path: with a line end', { path: '/\n' }, 'cookie.path', /"\/\\n"/, /Write e\.g\./],
    ['domain: a URL', { domain: 'https://a.test' }, 'cookie.domain', /https/, /Write e\.g\. "example\.com"/],
    ['domain: a port', { domain: 'a.test:80' }, 'cookie.domain', /:80/, /Write e\.g\./],
    ['domain: empty', { domain: '' }, 'cookie.domain', /""/, /Write e\.g\./],
    ['domain: with ;', { domain: 'a.test; Secure' }, 'cookie.domain', /Secure/, /Write e\.g\./],
    ['maxAge: seconds', { maxAge: 60 }, 'cookie.maxAge', /60/, /Write '60s' or '60ms'/],
    ['maxAge: 0', { maxAge: 0 }, 'cookie.maxAge', /between 1s and 400d/, /range/],
    ['maxAge: 401 days', { maxAge: '401d' }, 'cookie.maxAge', /between 1s and 400d/, /range/],
    ['maxAge: never', { maxAge: 'never' }, 'cookie.maxAge', /"never"/, /'30m'/],
    ['partitioned: 1', { partitioned: 1 }, 'cookie.partitioned', /1/, /true or false/],
    ['secrets: none', { secrets: [] }, 'cookie.secrets', /empty array/, /Drop it/],
    ['secrets: a number', { secrets: 5 }, 'cookie.secrets', /number/, /openssl rand/],
  ])('%s: the error names the option, the value and the fix', (_title, cookie, option, value, fix) => {
    const error = refusal({ cookie });
    expect(error.option).toBe(option);
    expect(error.message).toMatch(value);
    expect(error.message).toMatch(fix);
  });

  it('never shows a secret', () => {
    for (const secrets of ['hunter2-hunter2', ['x'.repeat(40), 'hunter2-hunter2'], [SECRET, undefined]]) {
      const { message, option } = refusal({ cookie: { secrets } });
      expect(option).toBe('cookie.secrets');
      expect(message).toMatch(/at least 32 characters/);
      expect(message).not.toMatch(/hunter2|xxxx|thirty/);
    }
  });

  // Browsers drop such cookies without a word.
  it.each<[cookie: unknown, option: string]>([
    [{ name: '__Host-sid', secure: true, domain: 'example.com' }, 'cookie.domain'],
    [{ name: '__Host-sid', secure: true, path: '/app' }, 'cookie.path'],
    [{ name: '__host-sid', secure: true, path: '/app' }, 'cookie.path'],
    [{ name: '__Host-sid', secure: false }, 'cookie.secure'],
    [{ name: '__Host-sid' }, 'cookie.secure'], // 'auto', outside production
    [{ name: '__Secure-sid', secure: false }, 'cookie.secure'],
    [{ name: '__SECURE-sid' }, 'cookie.secure'],
    [{ sameSite: 'none' }, 'cookie.sameSite'],
    [{ sameSite: 'none', secure: false }, 'cookie.sameSite'],
    [{ partitioned: true }, 'cookie.partitioned'],
    [{ partitioned: true, secure: false }, 'cookie.partitioned'],
  ])('%j stops the boot', (cookie, option) => {
    const error = refusal({ cookie });
    expect(error.option).toBe(option);
    expect(error.message).toMatch(/(Drop|Set|choose)/);
  });

  it.each([
    { sameSite: 'none', secure: true },
    { sameSite: 'none', secure: true, partitioned: true },
    { name: '__Secure-sid', secure: true, domain: 'example.com', path: '/app' },
    { domain: '.example.com', secure: true },
  ])('%j is a possible pair', (cookie) => {
    expect(cookieFor(cookie)).toMatchObject(cookie);
  });
});

describe('the option csrf', () => {
  it.each<[csrf: unknown, resolved: unknown]>([
    [undefined, { strict: false, allowedOrigins: [] }],
    [true, { strict: false, allowedOrigins: [] }],
    ['strict', { strict: true, allowedOrigins: [] }],
    [false, false],
    [{}, { strict: false, allowedOrigins: [] }],
    [{ strict: true }, { strict: true, allowedOrigins: [] }],
    [
      { allowedOrigins: ['https://app.test', 'http://localhost:3000'] },
      { strict: false, allowedOrigins: ['https://app.test', 'http://localhost:3000'] },
    ],
  ])('%j resolves to %j', (csrf, resolved) => {
    expect(resolve({ csrf }).csrf).toEqual(resolved);
  });

  it('is frozen, and a copy', () => {
    const allowedOrigins = ['https://app.test'];
    const { csrf } = resolve({ csrf: { allowedOrigins } });
    allowedOrigins.push('https://evil.test');
    expect(csrf).toMatchObject({ allowedOrigins: ['https://app.test'] });
    expect([Object.isFrozen(csrf), csrf && Object.isFrozen(csrf.allowedOrigins)]).toEqual([true, true]);
  });

  it.each<[csrf: unknown, option: string, message: RegExp]>([
    ['lax', 'csrf', /"lax"/],
    [null, 'csrf', /null/],
    [[], 'csrf', /an array/],
    [{ allowedOrigin: [] }, 'csrf.allowedOrigin', /Did you mean "csrf\.allowedOrigins"/],
    [{ strict: 'yes' }, 'csrf.strict', /"yes"/],
    [{ allowedOrigins: 'https://a.test' }, 'csrf.allowedOrigins', /must be an array/],
    [{ allowedOrigins: ['a.test'] }, 'csrf.allowedOrigins', /"a\.test".*scheme, host and port/],
    [{ allowedOrigins: ['https://a.test/'] }, 'csrf.allowedOrigins', /scheme, host and port/],
    [{ allowedOrigins: ['https://a.test/path'] }, 'csrf.allowedOrigins', /scheme, host and port/],
    [{ allowedOrigins: ['https://A.test'] }, 'csrf.allowedOrigins', /scheme, host and port/],
    [{ allowedOrigins: ['https://a.test:443'] }, 'csrf.allowedOrigins', /scheme, host and port/],
    [{ allowedOrigins: ['*'] }, 'csrf.allowedOrigins', /"\*"/],
    [{ allowedOrigins: ['null'] }, 'csrf.allowedOrigins', /"null"/],
    [{ allowedOrigins: ['file:///x'] }, 'csrf.allowedOrigins', /file/],
    [{ allowedOrigins: [undefined] }, 'csrf.allowedOrigins', /undefined/],
  ])('%j stops the boot', (csrf, option, message) => {
    const error = refusal({ csrf });
    expect(error.option).toBe(option);
    expect(error.message).toMatch(message);
  });
});

describe('the option transport', () => {
  const read = () => undefined;

  it('takes one or several, a transport of one’s own among them, and keeps their order', () => {
    const own = { read };
    expect(resolve({}).transport).toEqual(['cookie', 'bearer']);
    expect(resolve({ transport: own }).transport).toEqual([own]);
    expect(resolve({ transport: ['bearer', own, { header: 'X-Token' }, 'cookie'] }).transport).toEqual([
      'bearer',
      own,
      { header: 'x-token' },
      'cookie',
    ]);
  });

  it('keeps a transport of one’s own as it is: its methods may be inherited', () => {
    class Own {
      readonly ambient = true;
      read() {
        return undefined;
      }
      write() {}
    }
    const own = new Own();
    expect(resolve({ transport: own }).transport[0]).toBe(own);
  });

  it.each<[title: string, transport: unknown, option: string, message: RegExp]>([
    ['an unknown name', 'cookies', 'transport', /"cookies".*Write e\.g\./],
    ['a URL parameter', { query: 'token' }, 'transport', /an object/],
    ['an empty list', [], 'transport', /empty array/],
    ['null', null, 'transport', /null/],
    ['no header name', { header: undefined }, 'transport.header', /undefined/],
    ['a header name with a colon', { header: 'x:y' }, 'transport.header', /"x:y"/],
    ['an unknown key', { header: 'x', scheme: 'Bearer' }, 'transport.scheme', /not known/],
    ['read that is no function', { read: 'x-token' }, 'transport.read', /must be a function/],
    ['write that is no function', { read, write: true }, 'transport.write', /must be a function/],
    ['clear that is no function', { read, clear: {} }, 'transport.clear', /must be a function/],
    ['one wrong among right ones', ['cookie', 'header'], 'transport', /"header"/],
  ])('%s stops the boot', (_title, transport, option, message) => {
    const error = refusal({ transport });
    expect(error.option).toBe(option);
    expect(error.message).toMatch(message);
  });
});

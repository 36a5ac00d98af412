// The session cookie by way of the app's own cookie manager, and signed by a Keygrip of the app's.
import type { IncomingMessage, ServerResponse } from 'node:http';
import Cookies from 'cookies';
import Keygrip from 'keygrip';
import { describe, expect, it } from 'vitest';
import {
  SessionArgumentError,
  SessionOptionsError,
  type CookieManager,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { CookieJar, cookieOf, type Answer } from './support/http-client.js';
import { bootContext, listen, PlainServer } from './support/plain-server.js';
import { WrappedStore } from './support/wrapped-store.js';

const KEYS = ['the first key of the app', 'an older key of the app'];

type MakeManager = (request: IncomingMessage, response: ServerResponse) => CookieManager;

const plain: MakeManager = (request, response) => new Cookies(request, response);
const keyed: MakeManager = (request, response) => new Cookies(request, response, { keys: KEYS });

const start = (cookies: MakeManager, session: SessionModuleOptions = {}) =>
  PlainServer.start('memory', { cookie: { name: 's' }, ...session }, { cookies });

const namesOf = ({ cookies }: Answer) => cookies.map((line) => line.slice(0, line.indexOf('='))).sort();

/** Attributes in lower case, for the package `cookies` writes them so. */
function attributesOf(line: string): Record<string, string> {
  const pairs = line
    .split('; ')
    .slice(1)
    .map((part) => [...part.toLowerCase().split('='), ''].slice(0, 2));
  return Object.fromEntries(pairs) as Record<string, string>;
}

const lineOf = ({ cookies }: Answer, name: string) =>
  cookies.find((line) => line.startsWith(`${name}=`)) ?? '';

describe.each<[string, MakeManager, string[]]>([
  ['without keys', plain, ['s']],
  ['with keys', keyed, ['s', 's.sig']],
])('a given instance of Cookies %s', (_what, manager, names) => {
  it('sets the session cookie with our attributes, and finds the session by it', async () => {
    const server = await start(manager);
    const client = server.client();
    const first = await server.run(client, (session, response) => {
      void session.set('a', 1);
      response.end();
    });
    expect(namesOf(first)).toEqual(names);
    for (const name of names)
      expect(attributesOf(lineOf(first, name))).toEqual({ path: '/', samesite: 'lax', httponly: '' });
    expect(first.headers['cache-control']).toBe('no-store');
    expect(await server.stored(client.value('s'))).toEqual({ a: 1 });
    const second = await server.run(client, (session, response) =>
      session.get('a', (_error, a) => response.end(String(a))),
    );
    expect([second.body, second.cookies]).toEqual([1, []]);
  });

  it('obeys the options of the cookie: its life in ms becomes Expires', async () => {
    const server = await start(manager, {
      cookie: { name: 's', maxAge: '1h', path: '/app', sameSite: 'strict', httpOnly: false },
    });
    const before = Date.now();
    const answer = await server.run(server.client(), (session, response) => {
      void session.set('a', 1);
      response.end();
    });
    for (const name of names) {
      const { expires = '', ...others } = attributesOf(lineOf(answer, name));
      expect(others).toEqual({ path: '/app', samesite: 'strict' });
      // The session can live for 30 minutes, and the cookie no longer than that.
      const life = Date.parse(expires) - before;
      expect(life).toBeGreaterThan(29 * 60_000 - 1_000);
      expect(life).toBeLessThanOrEqual(30 * 60_000 + 2_000);
    }
  });

  it('removes it with the attributes it was set with, when the session is destroyed', async () => {
    const server = await start(manager, { cookie: { name: 's', path: '/app', sameSite: 'strict' } });
    const client = server.client();
    const set = await server.run(client, (session, response) => session.set('a', 1, () => response.end()));
    const token = client.value('s');
    const removed = await server.run(client, (session, response) => session.destroy(() => response.end()));
    expect(namesOf(removed)).toEqual(names);
    expect(cookieOf(removed, 's')).toBeFalsy();
    for (const name of names) {
      const { expires, ...others } = attributesOf(lineOf(removed, name));
      expect(expires).toBe('thu, 01 jan 1970 00:00:00 gmt');
      expect(others).toEqual(attributesOf(lineOf(set, name)));
    }
    expect(await server.stored(token)).toBeNull();
  });

  it('the handler’s own cookies survive: by setHeader, by the same manager, before and after, and in writeHead()', async () => {
    let cookies: CookieManager | undefined;
    const server = await start((request, response) => (cookies = manager(request, response)));
    const { cookies: lines } = await server.run(server.client(), async (session, response) => {
      response.setHeader('Set-Cookie', 'header=1');
      cookies!.set('before', '1', {});
      await session.set('a', 1);
      cookies!.set('after', '1', {});
      response.writeHead(200, { 'Set-Cookie': ['head=1', 'head2=1'] });
      response.end();
    });
    const set = lines
      .map((line) => line.slice(0, line.indexOf('=')))
      .filter((name) => !name.endsWith('.sig'));
    expect(set.sort()).toEqual(['after', 'before', 'head', 'head2', 'header', 's']);
    expect(lines.filter((line) => line.startsWith('s.sig='))).toHaveLength(names.length - 1);
  });

  it('writeHead() before set(), without cookies of its own', async () => {
    const server = await start(manager);
    const answer = await server.run(server.client(), (session, response) => {
      response.writeHead(200, { 'Content-Type': 'text/plain' });
      void session.set('a', 1);
      response.end();
    });
    expect(namesOf(answer)).toEqual(names);
  });

  it('a failure sets nothing of ours', async () => {
    const store = new WrappedStore();
    const server = await start(manager, { store });
    store.down = true;
    const { status, cookies } = await server.run(server.client(), (session, response) => {
      void session.set('a', 1);
      response.end();
    });
    expect([status, cookies]).toEqual([503, []]);
  });

  it('cross-site POSTs are refused as with our own cookie', async () => {
    const server = await start(manager);
    const client = server.client();
    await server.run(client, (session, response) => session.set('a', 1, () => response.end()));
    const { status } = await server.run(
      client,
      (session, response) => {
        void session.set('a', 2);
        response.end();
      },
      { method: 'POST', headers: { origin: 'https://evil.test' } },
    );
    expect([status, await server.stored(client.value('s'))]).toEqual([403, { a: 1 }]);
  });
});

describe('a given instance of Cookies with keys', () => {
  it.each<[string, (client: { value(name: string): string | undefined }) => Record<string, string>]>([
    ['that is forged', () => ({ 's.sig': 'A'.repeat(27) })],
    ['of another value', (other) => ({ 's.sig': other.value('s.sig')! })],
    ['that is missing', () => ({})],
  ])('a signature %s is no session, and no read of the store', async (_what, signature) => {
    const store = new WrappedStore();
    const server = await start(keyed, { store });
    const [victim, other] = [server.client(), server.client()];
    for (const client of [victim, other])
      await server.run(client, (session, response) => session.set('a', 1, () => response.end()));
    const forged = server.client().set('s', victim.value('s')!);
    for (const [name, value] of Object.entries(signature(other))) forged.set(name, value);
    const reads = store.calls.get;
    expect(await server.value(forged, (session) => session.getAll())).toEqual({});
    expect(store.calls.get).toBe(reads);
  });

  it('who comes with a forged one and is written to gets a session and a right signature', async () => {
    const server = await start(keyed);
    const client = server.client().set('s', 'A'.repeat(44)).set('s.sig', 'A'.repeat(27));
    await server.value(client, (session) => session.set('a', 1));
    expect(await server.value(client, (session) => session.get('a'))).toBe(1);
  });

  it('a signature of an older key leads to the session, and is renewed', async () => {
    let keys = [KEYS[1]!];
    const server = await start((request, response) => new Cookies(request, response, { keys }));
    const client = server.client();
    await server.value(client, (session) => session.set('a', 1));
    keys = KEYS;
    const old = client.value('s.sig');
    expect(await server.value(client, (session) => session.get('a'))).toBe(1);
    expect(client.value('s.sig')).not.toBe(old);
    keys = [KEYS[0]!];
    expect(await server.value(client, (session) => session.get('a'))).toBe(1);
  });
});

describe('option cookies', () => {
  it('takes a manager of the app’s own', async () => {
    const seen: unknown[] = [];
    const server = await start(({ headers }, response) => ({
      get: (name) =>
        /^own-([^;]*)/.exec(headers.cookie ?? '')?.[1] && `${headers.cookie!.split(`${name}.`)[1]}`,
      set: (name, value, attributes) => {
        seen.push([name, value === null ? null : 'a token', attributes]);
        response.setHeader('Set-Cookie', `own-${name}.${value ?? ''}=x`);
      },
    }));
    const { cookies } = await server.run(server.client(), (session, response) =>
      session.set('a', 1, () => response.end()),
    );
    expect(seen).toEqual([['s', 'a token', { path: '/', httpOnly: true, secure: false, sameSite: 'lax' }]]);
    expect(cookies).toEqual([expect.stringMatching(/^own-s\.[\w-]{44}=x$/)]);
    const token = /s\.([\w-]{44})/.exec(cookies[0]!)![1]!;
    const client = server.client();
    const read = await server.run(
      client,
      (session, response) => session.get('a', (_error, a) => response.end(String(a))),
      {
        headers: { cookie: `own-s.${token}` },
      },
    );
    expect(read.body).toBe(1);
    const ended = await server.run(client, (session, response) => session.destroy(() => response.end()), {
      headers: { cookie: `own-s.${token}` },
    });
    expect(ended.cookies).toEqual(['own-s.=x']);
    expect(seen.at(-1)).toEqual([
      's',
      null,
      { path: '/', httpOnly: true, secure: false, sameSite: 'lax', expires: new Date(0) },
    ]);
  });

  it('takes the manager itself, and signs as that does, whatever cookie.secrets say', async () => {
    const server = await PlainServer.start('memory', { cookie: { name: 's', secrets: 'x'.repeat(32) } });
    const url = await listen((request, response) => {
      const cookies = new Cookies(request, response);
      server.http.attachSession(request, response, { cookies }).set('a', 1, () => response.end());
    });
    const client = new CookieJar(url);
    await client.ask('/');
    expect(client.value('s')).toMatch(/^[\w-]{44}$/);
    expect(await server.stored(client.value('s'))).toEqual({ a: 1 });
  });

  it('a bearer token is read though there is a manager', async () => {
    const server = await start(plain);
    const { token } = await server.sessions.create({ a: 1 });
    const { body } = await server.run(
      server.client(),
      (session, response) => session.get('a', (_error, a) => response.end(String(a))),
      { headers: { authorization: `Bearer ${token}` } },
    );
    expect(body).toBe(1);
  });

  it.each<[string, unknown]>([
    ['an object without methods', {}],
    ['one that only reads', { get: () => undefined }],
    ['one that only sets', { set: () => undefined }],
    ['a function that makes none', () => ({})],
  ])('refuses %s, and says what to pass', async (_what, cookies) => {
    const { http } = await PlainServer.start('memory');
    const attach = () => http.attachSession({} as never, {} as never, { cookies } as never);
    expect(attach).toThrow(SessionArgumentError);
    expect(attach).toThrow(/options\.cookies.*new Cookies\(request, response\)/);
  });

  it('what the manager throws is 500, and no cookie', async () => {
    const server = await start(() => ({
      get: () => undefined,
      set: () => {
        throw new Error('Cannot send secure cookie over unencrypted connection');
      },
    }));
    const { status, cookies } = await server.run(server.client(), (session, response) => {
      void session.set('a', 1);
      response.end();
    });
    expect([status, cookies]).toEqual([500, []]);
    expect(server.logs.matching(/^error The session could not be saved/)).toHaveLength(1);
  });
});

describe('cookie.secrets: a Keygrip', () => {
  const startSigned = async (secrets: Keygrip, store = new WrappedStore()) => ({
    store,
    server: await PlainServer.start('memory', { store, cookie: { secrets } }),
  });

  it('signs the cookie over its name, and takes what it signed', async () => {
    const keys = new Keygrip(KEYS);
    const { server } = await startSigned(keys);
    const client = server.client();
    await server.value(client, (session) => session.set('a', 1));
    const [token = '', signature] = client.value()!.split('.');
    expect(token).toMatch(/^[\w-]{44}$/);
    expect(signature).toBe(keys.sign(`sid=${token}`));
    expect(await server.value(client, (session) => session.get('a'))).toBe(1);
    expect(await server.stored(token)).toEqual({ a: 1 });
  });

  it.each<[string, string]>([
    ['sha256', 'hex'],
    ['sha512', 'base64'],
  ])('of %s in %s too', async (algorithm, encoding) => {
    const { server } = await startSigned(new Keygrip(KEYS, algorithm, encoding));
    const client = server.client();
    await server.value(client, (session) => session.set('a', 1));
    expect(await server.value(client, (session) => session.get('a'))).toBe(1);
  });

  it('rotated, takes the cookies of older keys, and signs with the newest', async () => {
    const keys = [KEYS[1]!];
    const { server } = await startSigned(new Keygrip(keys));
    const [old, fresh] = [server.client(), server.client()];
    await server.value(old, (session) => session.set('a', 'old'));
    keys.unshift(KEYS[0]!); // a Keygrip looks at its list each time
    expect(await server.value(old, (session) => session.get('a'))).toBe('old');
    await server.value(fresh, (session) => session.set('a', 'fresh'));
    const [token, signature] = fresh.value()!.split('.');
    expect(signature).toBe(new Keygrip([KEYS[0]!]).sign(`sid=${token}`));
    expect(await server.value(fresh, (session) => session.get('a'))).toBe('fresh');
  });

  it('once a key is dropped, refuses its cookies', async () => {
    const keys = [...KEYS];
    const { server } = await startSigned(new Keygrip(keys));
    const client = server.client();
    await server.value(client, (session) => session.set('a', 1));
    expect(await server.value(client, (session) => session.get('a'))).toBe(1); // taken, and perhaps remembered
    keys.shift();
    expect(await server.value(client, (session) => session.getAll())).toEqual({});
  });

  it('forged signatures cost no read of the store', async () => {
    const { server, store } = await startSigned(new Keygrip(KEYS));
    const client = server.client();
    await server.value(client, (session) => session.set('a', 1));
    const [token = '', signature = ''] = client.value()!.split('.');
    const others = [
      token,
      `${token}.`,
      `${token}.${'A'.repeat(27)}`,
      `${token}.${signature.slice(0, -1)}`,
      `${token}.${signature}A`,
      `${token}.${new Keygrip(['nobody’s key']).sign(`sid=${token}`)}`,
      `${token}.${new Keygrip(KEYS).sign(`other=${token}`)}`,
      `${'B'.repeat(44)}.${signature}`,
      `${token}.${'é'.repeat(27)}`,
      `${'B'.repeat(4_000)}.${signature}`,
    ];
    const reads = store.calls.get;
    for (const value of others) {
      const forger = server.client().set('sid', encodeURIComponent(value));
      expect(await server.value(forger, (session) => session.getAll()), value).toEqual({});
    }
    expect(store.calls.get).toBe(reads);
    expect(await server.value(client, (session) => session.get('a'))).toBe(1);
    expect(store.calls.get).toBe(reads + 1);
  });

  it('without both of its methods it stops the boot', async () => {
    const error: unknown = await bootContext({ cookie: { secrets: { sign: () => '' } as never } }).catch(
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(SessionOptionsError);
    expect(error).toMatchObject({ option: 'cookie.secrets', message: expect.stringMatching(/Keygrip/) });
  });
});

describe('a request that somebody has attached a session to', () => {
  const serve = async (
    attach: (http: PlainServer['http'], request: IncomingMessage, response: ServerResponse) => unknown,
  ) => {
    const server = await PlainServer.start('memory', { cookie: { name: 's' } });
    const url = await listen((request, response) => {
      try {
        attach(server.http, request, response);
        response.end('attached');
      } catch (error) {
        response.end(String(error));
      }
    });
    return (await new CookieJar(url).ask('/')).text;
  };

  it.each<[string, boolean, boolean]>([
    ['without, then with', false, true],
    ['with, then with', true, true],
  ])('attached %s a cookie manager: refused, for one of them would go unused', async (_, first, second) => {
    const text = await serve(({ attachSession }, request, response) => {
      for (const cookies of [first, second])
        attachSession(request, response, cookies ? { cookies: keyed(request, response) } : {});
    });
    expect(text).toMatch(/SessionArgumentError.*"options\.cookies" comes too late/);
  });

  it.each<[string, boolean]>([
    ['with', true],
    ['without', false],
  ])('attached %s a cookie manager, then again without: the same session', async (_, first) => {
    const text = await serve(({ attachSession }, request, response) => {
      attachSession(request, response, first ? { cookies: keyed(request, response) } : {});
      attachSession(request, response);
    });
    expect(text).toBe('attached');
  });
});

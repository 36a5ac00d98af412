// toExpressStore under @fastify/session: the same requests to two apps, one on its MemoryStore and one on ours.
import fastifyCookie from '@fastify/cookie';
import Fastify, { type FastifyPluginCallback, type FastifyRequest } from 'fastify';
import { describe, expect, it, onTestFinished } from 'vitest';
import { MemorySessionStore } from '../../lib/index.js';
import { toExpressStore } from '../../lib/express-store/index.js';
import { attributesOf, CookieJar, type Answer } from './support/http-client.js';

/** Its types would change those of FastifyRequest in all other tests. */
const { default: fastifySession } = (await import('@fastify/session' as string)) as {
  default: FastifyPluginCallback<Record<string, unknown>> & { MemoryStore: new (sessions: object) => object };
};

interface FastifySession {
  destroy(): Promise<void>;
  regenerate(keys?: string[]): Promise<void>;
  save(): Promise<void>;
  reload(): Promise<void>;
}

type Fields = Record<string, unknown> & { views?: number };
type Handler = (request: FastifyRequest) => unknown;

const sessionOf = (request: FastifyRequest) => (request as unknown as { session: FastifySession }).session;
const fieldsOf = (request: FastifyRequest): Fields => sessionOf(request) as unknown as Fields;

const ROUTES: Record<string, Handler> = {
  '/read': (request) => JSON.stringify(sessionOf(request)),
  '/count': (request) => String((fieldsOf(request).views = (fieldsOf(request).views ?? 0) + 1)),
  '/delete': (request) => {
    delete fieldsOf(request).views;
    return 'deleted';
  },
  '/destroy': async (request) => {
    await sessionOf(request).destroy();
    return 'destroyed';
  },
  '/regenerate': async (request) => {
    await sessionOf(request).regenerate();
    return 'regenerated';
  },
  '/keep': async (request) => {
    await sessionOf(request).regenerate(['views']);
    return 'kept';
  },
  '/save': async (request) => {
    fieldsOf(request).name = 'saved';
    await sessionOf(request).save();
    return 'saved';
  },
  '/reload': async (request) => {
    await sessionOf(request).reload();
    return String(fieldsOf(request).views);
  },
};

const SCRIPT = [
  '/read /count /count /read /delete /read /save /reload /read',
  '/count /regenerate /read /count /keep /read /destroy /read /count /read',
];

async function serve(options: object, more: Record<string, Handler> = {}): Promise<string> {
  const app = Fastify({ forceCloseConnections: true });
  await app.register(fastifyCookie);
  await app.register(fastifySession, { secret: 'a secret of thirty-two characters', ...options });
  for (const [path, handler] of Object.entries({ ...ROUTES, ...more }))
    app.get(path, async (request) => handler(request));
  onTestFinished(() => app.close());
  return app.listen({ port: 0, host: '127.0.0.1' });
}

function seen({ status, text, cookies }: Answer) {
  return {
    status,
    // In which order fields come back is no difference.
    text: text.startsWith('{') ? withoutTimes(JSON.parse(text) as Fields) : text,
    cookies: cookies.map((line) => attributesOf(line).map((part) => part.replace(/^(Expires)=.*/, '$1'))),
  };
}

function withoutTimes({ cookie, ...fields }: Fields): Fields {
  const { expires, originalExpires: _, ...settings } = cookie as Fields;
  return { ...fields, cookie: { ...settings, expires: expires === null ? null : 'a date' } };
}

const BOTH = [true, false];
const COMBINATIONS = BOTH.flatMap((rolling) =>
  BOTH.flatMap((saveUninitialized) =>
    [undefined, 60_000].map((maxAge) => ({ rolling, saveUninitialized, maxAge })),
  ),
);

describe('@fastify/session sees no difference to its MemoryStore', () => {
  it.each(COMBINATIONS)('with %o', async ({ maxAge, ...options }) => {
    for (const script of SCRIPT) {
      const map = new Map<string, never>();
      const sessions = new MemorySessionStore();
      const { MemoryStore } = fastifySession;
      const sides = [
        { store: new MemoryStore(map), count: () => map.size },
        { store: toExpressStore(sessions), count: () => sessions.length() },
      ];
      const [theirs, our] = await Promise.all(
        sides.map(async ({ store, count }) => {
          const cookie = { secure: false, ...(maxAge !== undefined && { maxAge }) };
          const jar = new CookieJar(await serve({ ...options, cookie, store }));
          const answers: unknown[] = [];
          for (const path of script.split(' '))
            answers.push({ path, ...seen(await jar.ask(path)), count: await count() });
          return answers;
        }),
      );
      expect(our).toEqual(theirs);
    }
  });
});

describe('what ours does beyond that under @fastify/session', () => {
  it.each([
    ['two requests that change different fields at once both win', '/count', { views: 2, name: 'slow' }],
    ['a save that comes after the session was destroyed does not bring it back', '/destroy', null],
  ])('%s', async (_title, meanwhile, expected) => {
    let release!: () => void;
    let arrive!: () => void;
    const released = new Promise<void>((resolve) => (release = resolve));
    const arrived = new Promise<void>((resolve) => (arrive = resolve));
    const slow: Handler = async (request) => {
      arrive();
      await released;
      fieldsOf(request).name = 'slow';
      return 'late';
    };
    const sessions = new MemorySessionStore();
    const store = toExpressStore(sessions);
    const options = { saveUninitialized: false, cookie: { secure: false, maxAge: 60_000 }, store };
    const url = await serve(options, { '/slow': slow });
    const jar = new CookieJar(url);
    await jar.ask('/count');
    const late = jar.at(url).ask('/slow');
    await arrived;
    await jar.ask(meanwhile);
    release();
    expect((await late).status).toBe(200);
    const datas: unknown[] = [];
    for await (const { data } of sessions.all()) datas.push(JSON.parse(data));
    expect(datas).toEqual(expected === null ? [] : [expect.objectContaining(expected)]);
  });
});

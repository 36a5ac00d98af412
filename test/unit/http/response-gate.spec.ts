import { createServer, ServerResponse, type IncomingMessage } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { prepareResponses } from '../../../lib/http/gated-prototype.js';
import { gateResponse, type ResponseGateOwner } from '../../../lib/http/response-gate.js';
import { waitFor } from '../../support/wait-for.js';
import { ask, type Answer } from '../../e2e/support/http-client.js';

/** An owner whose commit the test settles. */
class ManualOwner implements ResponseGateOwner {
  commits = 0;
  failures: unknown[] = [];
  lines: (readonly [string, string])[] = [];
  settle: { resolve: () => void; reject: (error: unknown) => void } = {
    resolve: () => undefined,
    reject: () => undefined,
  };

  /** @param sync nothing to wait for */
  constructor(readonly sync = false) {}

  commit(): Promise<void> | undefined {
    this.commits++;
    if (this.sync) return undefined;
    return new Promise((resolve, reject) => (this.settle = { resolve, reject }));
  }

  headers() {
    return this.lines;
  }

  onFailure(error: unknown) {
    this.failures.push(error);
    return { status: 503, body: { replaced: true } };
  }
}

/** As of Express: what all apps' responses inherit, and what those of one app do. */
const ofExpress = Object.create(ServerResponse.prototype) as ServerResponse;
const ofApp = Object.create(ofExpress) as ServerResponse;
const prepareOnce = () =>
  prepareResponses({ getType: () => 'express', getInstance: () => ({ response: ofApp }) } as never);
/** Whether responses inherit the methods of gates. */
let inherits = false;
const asFromFramework = (response: ServerResponse): void => {
  if (inherits) Object.setPrototypeOf(response, ofApp);
};

type Handler = (response: ServerResponse, incoming: IncomingMessage) => unknown;

/** A server of Node's own; `handler` runs with the gate installed. Its errors come out of `errors`. */
async function serve(owner: ResponseGateOwner, handler: Handler, before: Handler = () => undefined) {
  const errors: unknown[] = [];
  const server = createServer((incoming, response) => {
    response.on('error', (error) => errors.push(error));
    asFromFramework(response);
    before(response, incoming);
    gateResponse(response, owner);
    void (async () => handler(response, incoming))().catch((error: unknown) => errors.push(error));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/`, port, errors };
}

/** Answers once the owner has been asked to commit, and then as `settle` says. */
async function answerOf(owner: ManualOwner, handler: Handler, settle: 'resolve' | 'reject' = 'resolve') {
  const server = await serve(owner, handler);
  const answer = ask(server.url);
  await waitFor(() => owner.commits > 0);
  await new Promise(setImmediate); // all that the handler does at once is queued
  if (settle === 'resolve') owner.settle.resolve();
  else owner.settle.reject(new Error('not saved'));
  return { answer: await answer, errors: server.errors };
}

/** Every method by which a response can begin. */
const ENTRIES: [name: string, handler: Handler, status: number, text: string][] = [
  ['end()', (response) => response.end(), 200, ''],
  ['end(text)', (response) => response.end('all'), 200, 'all'],
  ['end(bytes, callback)', (response) => response.end(Buffer.from('all'), () => undefined), 200, 'all'],
  [
    'end(text, encoding, callback)',
    (response) => response.end('YWxs', 'base64', () => undefined),
    200,
    'all',
  ],
  [
    'end(callback)',
    (response) => {
      response.write('all');
      response.end(() => undefined);
    },
    200,
    'all',
  ],
  [
    'write()',
    (response) => {
      response.write('a');
      response.write('l');
      response.end('l');
    },
    200,
    'all',
  ],
  ['writeHead()', (response) => response.writeHead(201).end('all'), 201, 'all'],
  ['writeHead() with a reason', (response) => response.writeHead(201, 'Fine').end('all'), 201, 'all'],
  [
    'writeHead() with headers',
    (response) => response.writeHead(201, { 'Content-Length': 3 }).end('all'),
    201,
    'all',
  ],
  [
    'flushHeaders()',
    (response) => {
      response.statusCode = 202;
      response.flushHeaders();
      response.end('all');
    },
    202,
    'all',
  ],
  ['a pipe', (response) => Readable.from(['a', 'l', 'l']).pipe(response), 200, 'all'],
  [
    'a pipeline',
    // It rejects when its response is replaced, as when the client goes away.
    (response) => pipeline(Readable.from(['a', 'l', 'l']), response).catch(() => undefined),
    200,
    'all',
  ],
  [
    'cork() and uncork()',
    (response) => {
      response.cork();
      response.write('a');
      response.write('ll');
      response.uncork();
      response.end();
    },
    200,
    'all',
  ],
];

describe.each([
  ['whose methods are put on it', false],
  ['that inherits them, as from express.response', true],
])('gateResponse(), for a response %s', (_title, inherited) => {
  beforeAll(() => {
    if (inherited) prepareOnce();
    inherits = inherited;
  });

  describe.each(ENTRIES)('a response that begins with %s', (_name, handler, status, text) => {
    it('goes out as it is when there is nothing to wait for', async () => {
      const owner = new ManualOwner(true);
      owner.lines = [['Set-Cookie', 'sid=1']];
      const { url, errors } = await serve(owner, handler);
      const answer = await ask(url);
      expect([answer.status, answer.text, answer.cookies]).toEqual([status, text, ['sid=1']]);
      expect([owner.commits, errors]).toEqual([1, []]);
    });

    it('waits for the commit, and takes along the headers set meanwhile', async () => {
      const owner = new ManualOwner();
      const server = await serve(owner, handler);
      let begun = false;
      const answer = ask(server.url, { onHeaders: () => (begun = true) });
      await waitFor(() => owner.commits > 0);
      await sleep(20); // a negative: nothing leaves
      expect(begun).toBe(false);
      owner.lines = [
        ['Set-Cookie', 'sid=1'],
        ['Cache-Control', 'no-store'],
      ];
      owner.settle.resolve();
      const { status: got, text: body, cookies, headers } = await answer;
      expect([got, body, cookies]).toEqual([status, text, ['sid=1']]);
      expect(headers['cache-control']).toBe('no-store');
      expect([owner.commits, server.errors]).toEqual([1, []]);
    });

    it('is replaced when the commit is rejected', async () => {
      const owner = new ManualOwner();
      const { answer, errors } = await answerOf(owner, handler, 'reject');
      expect([answer.status, answer.body]).toEqual([503, { replaced: true }]);
      expect(answer.headers).toMatchObject({
        'content-type': 'application/json; charset=utf-8',
        'content-length': '17',
        'cache-control': 'no-store',
      });
      expect(owner.failures).toHaveLength(1);
      expect(errors).toEqual([]);
    });

    it('is replaced when commit() itself throws', async () => {
      const owner = new ManualOwner();
      owner.commit = () => {
        throw new Error('not even begun');
      };
      const { url, errors } = await serve(owner, handler);
      expect(await ask(url)).toMatchObject({ status: 503, body: { replaced: true } });
      expect(errors).toEqual([]);
    });
  });

  it('keeps the order of everything that is called while it waits, callbacks too', async () => {
    const owner = new ManualOwner();
    const order: string[] = [];
    const { answer } = await answerOf(owner, (response) => {
      response.writeHead(200, { 'X-Own': '1' });
      for (const part of ['a', 'b', 'c']) response.write(part, () => order.push(part));
      response.end('d', () => order.push('end'));
    });
    expect([answer.text, answer.headers['x-own']]).toEqual(['abcd', '1']);
    expect(order).toEqual(['a', 'b', 'c', 'end']);
  });

  it('calls every callback of a response that was replaced: nobody waits for ever', async () => {
    const owner = new ManualOwner();
    let called = 0;
    const { answer } = await answerOf(
      owner,
      async (response) => {
        const first = new Promise<void>((resolve) => response.write('a', () => resolve()));
        owner.settle.reject(new Error('not saved'));
        await first.then(() => called++);
        await new Promise<void>((resolve) => response.write('b', () => resolve()));
        called++;
        await new Promise<void>((resolve) => response.end(() => resolve()));
        called++;
      },
      'reject',
    );
    expect(answer.body).toEqual({ replaced: true });
    await waitFor(() => called === 3, { timeoutMs: 1000, message: 'the callbacks' });
  });

  it('says while it waits what a response without it would say', async () => {
    const owner = new ManualOwner();
    const said: unknown[] = [];
    const { answer } = await answerOf(owner, (response) => {
      const look = () => said.push([response.headersSent, response.writableEnded]);
      look();
      response.write('a');
      look();
      response.end();
      look();
      response.once('finish', look);
    });
    expect(answer.text).toBe('a');
    expect(said).toEqual([
      [false, false],
      [true, false],
      [true, true],
      [true, true],
    ]);
  });

  it('keeps the status code that stood when the answer began', async () => {
    const owner = new ManualOwner();
    const { answer } = await answerOf(owner, (response) => {
      response.statusCode = 404;
      response.end('gone');
      response.statusCode = 500; // as an error handler that comes too late does
    });
    expect([answer.status, answer.text]).toEqual([404, 'gone']);
  });

  it('asks to commit once, however often the response is written to', async () => {
    const owner = new ManualOwner(true);
    const { url } = await serve(owner, (response) => {
      response.writeHead(200);
      response.write('a');
      response.flushHeaders();
      response.write('b');
      response.end('c');
    });
    expect((await ask(url)).text).toBe('abc');
    expect(owner.commits).toBe(1);
  });

  it('returns what Node returns: the response, and false from write() while it waits', async () => {
    const owner = new ManualOwner();
    const returned: unknown[] = [];
    await answerOf(owner, (response) => {
      returned.push(response.writeHead(200) === response, response.write('a'), response.end() === response);
    });
    expect(returned).toEqual([true, false, true]);
  });

  it('survives a second end(), while it waits and after', async () => {
    const owner = new ManualOwner();
    let calls = 0;
    const { answer, errors } = await answerOf(owner, async (response) => {
      response.end('once');
      response.end('twice', () => calls++);
      response.once('finish', () => response.end('thrice', () => calls++));
    });
    expect([answer.text, errors]).toEqual(['once', []]);
    await waitFor(() => calls === 2);
  });

  it('lets a writer that heeds back-pressure go on after the commit, and only then', async () => {
    const owner = new ManualOwner();
    let taken = 0;
    const source = new Readable({
      highWaterMark: 1,
      read() {
        this.push(taken++ < 100 ? Buffer.alloc(1024, 'x') : null);
      },
    });
    const server = await serve(owner, (response) => source.pipe(response));
    const answer = ask(server.url);
    await waitFor(() => owner.commits > 0);
    await sleep(20); // a negative: the source rests
    expect(taken).toBeLessThan(5);
    owner.settle.resolve();
    expect((await answer).text).toHaveLength(100 * 1024);
  });

  describe('headers given to writeHead()', () => {
    const OURS = [
      ['Set-Cookie', 'sid=1'],
      ['Cache-Control', 'no-store'],
    ] as const;

    it.each<[string, Handler]>([
      [
        'as an object',
        (response) =>
          response.writeHead(200, { 'set-cookie': ['a=1', 'b=2'], 'CACHE-CONTROL': 'public', 'X-Own': '1' }),
      ],
      [
        'as a flat array',
        (response) =>
          response.writeHead(200, [
            'Set-Cookie',
            'a=1',
            'set-cookie',
            'b=2',
            'cache-control',
            'public',
            'X-Own',
            '1',
          ]),
      ],
      [
        'as an array of pairs',
        (response) =>
          response.writeHead(200, [
            ['Set-Cookie', 'a=1'],
            ['set-cookie', 'b=2'],
            ['cache-control', 'public'],
            ['X-Own', '1'],
          ] as never),
      ],
      [
        'as an object, after a reason',
        (response) =>
          response.writeHead(200, 'Fine', {
            'Set-Cookie': ['a=1', 'b=2'],
            'Cache-Control': 'public',
            'X-Own': '1',
          }),
      ],
      [
        'as an object with one cookie, another set before',
        (response) => {
          response.setHeader('set-cookie', 'a=1');
          response.writeHead(200, { 'set-cookie': 'b=2', 'x-own': '1' });
        },
      ],
    ])('%s do not take ours away, and keep their own cookies', async (_how, writeHead) => {
      for (const sync of [true, false]) {
        const owner = new ManualOwner(sync);
        owner.lines = [...OURS];
        const server = await serve(owner, (response, incoming) => {
          writeHead(response, incoming);
          response.end();
        });
        const answer = ask(server.url);
        await waitFor(() => owner.commits > 0);
        owner.settle.resolve();
        const { cookies, headers } = await answer;
        expect([...cookies].sort()).toEqual(['a=1', 'b=2', 'sid=1']);
        expect(headers).toMatchObject({ 'cache-control': 'no-store', 'x-own': '1' });
      }
    });

    it('stay as they are where there is nothing of ours', async () => {
      const owner = new ManualOwner(true);
      const { url } = await serve(owner, (response) =>
        response.writeHead(200, { 'set-cookie': 'a=1', 'cache-control': 'public' }).end(),
      );
      const { cookies, headers } = await ask(url);
      expect([cookies, headers['cache-control']]).toEqual([['a=1'], 'public']);
    });
  });

  it('of several header lines with one name keeps all, whatever their case', async () => {
    const owner = new ManualOwner(true);
    owner.lines = [
      ['set-cookie', 'one=1'],
      ['set-cookie', 'two=2'],
    ];
    const { url } = await serve(owner, (response) => {
      response.setHeader('Set-Cookie', 'own=1');
      response.end();
    });
    expect([...(await ask(url)).cookies].sort()).toEqual(['one=1', 'own=1', 'two=2']);
  });

  describe('a replaced response', () => {
    it('has nothing of the handler’s body and its headers, and keeps what is the app’s', async () => {
      const owner = new ManualOwner();
      const { answer } = await answerOf(
        owner,
        (response) => {
          for (const [name, value] of Object.entries({
            'Content-Type': 'text/html',
            'Content-Length': '5',
            'Content-Encoding': 'gzip',
            'Content-Disposition': 'attachment',
            ETag: '"1"',
            'Last-Modified': 'Thu, 01 Jan 1970 00:00:00 GMT',
            Location: '/elsewhere',
            Expires: '0',
            'Cache-Control': 'public',
            'Access-Control-Allow-Origin': '*',
            'Content-Security-Policy': "default-src 'self'",
            Vary: 'Origin',
          }))
            response.setHeader(name, value);
          response.statusCode = 302;
          response.statusMessage = 'As you like';
          response.end('12345');
        },
        'reject',
      );
      expect(answer.headers).toEqual({
        'access-control-allow-origin': '*',
        'cache-control': 'no-store',
        connection: 'close',
        'content-length': '17',
        'content-security-policy': "default-src 'self'",
        'content-type': 'application/json; charset=utf-8',
        date: expect.any(String),
        vary: 'Origin',
      });
      expect([answer.status, answer.body]).toEqual([503, { replaced: true }]);
    });

    it('to HEAD has no body', async () => {
      const owner = new ManualOwner();
      const { url, errors } = await serve(owner, (response) => response.end());
      const answer = ask(url, { method: 'HEAD' });
      await waitFor(() => owner.commits > 0);
      owner.settle.reject(new Error('not saved'));
      expect(await answer).toMatchObject({ status: 503, text: '', headers: { 'content-length': '17' } });
      expect(errors).toEqual([]);
    });

    it('drops what the handler writes after it, also on the next request of the connection', async () => {
      const owner = new ManualOwner();
      const { answer, errors } = await answerOf(
        owner,
        async (response) => {
          response.write('a');
          await sleep(20); // until it has been replaced
          response.writeHead(200);
          response.flushHeaders();
          response.write('more');
          response.end('the end');
        },
        'reject',
      );
      expect(answer.body).toEqual({ replaced: true });
      await sleep(40);
      expect(errors).toEqual([]);
    });

    it('lets go of a source that never ends', async () => {
      const owner = new ManualOwner();
      let taken = 0;
      const source = new Readable({
        read() {
          taken++;
          this.push('x'.repeat(1000));
        },
      });
      const { answer } = await answerOf(owner, (response) => source.pipe(response), 'reject');
      expect(answer.body).toEqual({ replaced: true });
      await sleep(10);
      const before = taken;
      await sleep(30); // a negative: nothing more is taken
      expect(taken).toBe(before);
    });
  });

  it.each(['resolve', 'reject'] as const)(
    'whose client has gone when the commit ends (%s): nothing is thrown, and writers are called back',
    async (how) => {
      const owner = new ManualOwner();
      let done = false;
      const server = await serve(owner, async (response) => {
        // Not that of end(): Node itself does not call it when the client has gone.
        await new Promise<void>((resolve) => response.write('a', () => resolve()));
        done = true;
      });
      const socket = connect(server.port, '127.0.0.1');
      socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
      await waitFor(() => owner.commits > 0);
      socket.resetAndDestroy();
      await sleep(20); // until the server has noticed
      owner.settle[how](new Error('not saved'));
      await waitFor(() => done, { timeoutMs: 1000, message: 'the callback' });
      expect(server.errors).toEqual([]);
    },
  );

  it.each<[string, Handler]>([
    ['a header value that Node refuses', (response) => response.writeHead(200, { 'x-name': '\u4e2d' }).end()],
    ['a status code that there is not', (response) => response.writeHead(99).end()],
    ['a chunk that is none', (response) => response.end(5 as never)],
  ])('answers a handler’s mistake that shows only after the commit: %s', async (_what, handler) => {
    const owner = new ManualOwner();
    const { answer } = await answerOf(owner, handler);
    expect([answer.status, answer.body]).toEqual([503, { replaced: true }]);
    expect(owner.failures).toHaveLength(1);
  });

  it('leaves no moment in which a mistake that shows after the commit looks like no answer at all', async () => {
    const owner = new ManualOwner();
    const looks: boolean[] = [];
    const server = await serve(owner, (response) => {
      response.writeHead(200, { 'x-name': '\u4e2d' }).end();
      const committed = new Promise<void>((resolve) => {
        const { settle } = owner;
        owner.settle = {
          ...settle,
          resolve: () => {
            settle.resolve();
            resolve();
          },
        };
      });
      // As a framework does that looks at its own microtask whether the handler has answered.
      const watch = async () => {
        await committed;
        for (let turn = 0; turn < 10; turn++) {
          looks.push(response.writableEnded);
          await Promise.resolve();
        }
      };
      void watch();
    });
    const answer = ask(server.url);
    await waitFor(() => owner.commits > 0);
    owner.settle.resolve();
    expect((await answer).status).toBe(503);
    expect(looks).not.toContain(false);
  });

  describe('with other middleware that wraps end()', () => {
    /** As middleware does that stores or measures something before the response ends. */
    const delayEnd = (response: ServerResponse) => {
      const end = response.end.bind(response);
      response.end = ((...args: unknown[]) => {
        setTimeout(() => end(...(args as [string])), 20);
        return response;
      }) as typeof response.end;
    };

    it.each(['before', 'after'] as const)(
      '%s it: the answer is the handler’s, with our headers',
      async (when) => {
        const owner = new ManualOwner();
        owner.lines = [['Set-Cookie', 'sid=1']];
        const server = await serve(
          owner,
          (response) => {
            if (when === 'after') delayEnd(response);
            response.end('all');
          },
          when === 'before' ? delayEnd : undefined,
        );
        const answer = ask(server.url);
        await waitFor(() => owner.commits > 0);
        owner.settle.resolve();
        expect(await answer).toMatchObject({ status: 200, text: 'all', cookies: ['sid=1'] });
      },
    );

    it.each(['before', 'after'] as const)('%s it: the answer is replaced whole', async (when) => {
      const owner = new ManualOwner();
      const server = await serve(
        owner,
        (response) => {
          if (when === 'after') delayEnd(response);
          response.end('all');
        },
        when === 'before' ? delayEnd : undefined,
      );
      const answer = ask(server.url);
      await waitFor(() => owner.commits > 0);
      owner.settle.reject(new Error('not saved'));
      expect(await answer).toMatchObject({ status: 503, body: { replaced: true } });
    });
  });

  it('two gates on one response, of two copies of this package: both commit, both are heard', async () => {
    const [inner, outer] = [new ManualOwner(true), new ManualOwner(true)];
    inner.lines = [['Set-Cookie', 'inner=1']];
    outer.lines = [['Set-Cookie', 'outer=1']];
    const { url } = await serve(
      outer,
      (response) => response.writeHead(200, { 'x-own': '1' }).end('all'),
      (response) => gateResponse(response, inner),
    );
    const answer: Answer = await ask(url);
    expect(answer.text).toBe('all');
    expect([...answer.cookies].sort()).toEqual(['inner=1', 'outer=1']);
    expect([inner.commits, outer.commits]).toEqual([1, 1]);
  });

  it('installed after the headers have left changes nothing, and asks for no commit', async () => {
    const owner = new ManualOwner();
    const { url } = await serve(
      owner,
      (response) => response.end('all'),
      (response) => response.flushHeaders(),
    );
    expect((await ask(url)).text).toBe('all');
    expect(owner.commits).toBe(0);
  });

  it('serves the next request of the same connection as ever', async () => {
    let first = true;
    const owner = new ManualOwner();
    const server = createServer((_incoming, response) => {
      asFromFramework(response);
      if (first) gateResponse(response, owner);
      first = false;
      response.end('all');
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => void server.close());
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    onTestFinished(() => void socket.destroy());
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    socket.write('GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n'); // pipelined
    await waitFor(() => owner.commits === 1);
    owner.settle.reject(new Error('not saved'));
    await waitFor(() => text.includes('all'));
    expect(text.match(/HTTP\/1\.1 \d+/g)).toEqual(['HTTP/1.1 503', 'HTTP/1.1 200']);
  });
});

describe('prepareResponses()', () => {
  beforeAll(() => {
    prepareOnce();
    inherits = true;
  });

  it('puts nothing on a gated response, and a mounted app’s prototype keeps the gate', async () => {
    const owner = new ManualOwner(true);
    owner.lines = [['Set-Cookie', 'sid=1']];
    let own: string[] = [];
    const { url } = await serve(owner, (response) => {
      own = Object.keys(response);
      Object.setPrototypeOf(response, Object.create(ofApp));
      response.end('all');
    });
    const answer = await ask(url);
    expect([answer.text, answer.cookies, owner.commits]).toEqual(['all', ['sid=1'], 1]);
    expect(own.filter((name) => ['writeHead', 'flushHeaders', 'write', 'end'].includes(name))).toEqual([]);
  });

  it('a second response that somebody made of the same request goes straight through', async () => {
    const owner = new ManualOwner();
    const { url } = await serve(owner, (response, incoming) => {
      const second = new ServerResponse(incoming);
      asFromFramework(second);
      second.end('nowhere');
      expect([second.headersSent, owner.commits]).toEqual([true, 0]);
      response.end('all');
    });
    const answer = ask(url);
    await waitFor(() => owner.commits === 1);
    owner.settle.resolve();
    expect((await answer).text).toBe('all');
  });

  it('where the app overrides a method of its responses, the gate stands in front of that', async () => {
    const seen: string[] = [];
    const owner = new ManualOwner();
    const { url } = await serve(
      owner,
      (response) => response.end('all'),
      (response) => {
        const overriding = Object.create(ofApp) as ServerResponse;
        overriding.end = function (this: ServerResponse, ...args: Parameters<ServerResponse['end']>) {
          seen.push(`end after ${owner.commits} commits`);
          return ofExpress.end.apply(this, args);
        } as never;
        Object.setPrototypeOf(response, overriding);
      },
    );
    const answer = ask(url);
    await waitFor(() => owner.commits === 1);
    expect(seen).toEqual([]);
    owner.settle.resolve();
    expect((await answer).text).toBe('all');
    expect(seen).toEqual(['end after 1 commits']);
  });

  it('with mayInherit: false the gate outlives a prototype that was not prepared', async () => {
    const [inner, outer] = [new ManualOwner(true), new ManualOwner(true)];
    const { url } = await serve(
      outer,
      (response) => {
        Object.setPrototypeOf(response, Object.create(ServerResponse.prototype) as object);
        response.end('all');
      },
      (response) => gateResponse(response, inner, { mayInherit: false }),
    );
    expect((await ask(url)).text).toBe('all');
    expect([inner.commits, outer.commits]).toEqual([1, 1]);
  });

  it('leaves alone what is no Express app, and what inherits nothing of Node’s responses', () => {
    const response = Object.create(ServerResponse.prototype) as ServerResponse;
    prepareResponses(null);
    prepareResponses({ getType: () => 'fastify', getInstance: () => ({ response }) } as never);
    prepareResponses({ getType: () => 'express', getInstance: () => ({ response: {} }) } as never);
    prepareResponses({ getType: () => 'express', getInstance: () => ({}) } as never);
    expect(Object.keys(Object.getOwnPropertyDescriptors(response))).toEqual([]);
  });
});

it('a response that somebody logs shows nothing of who holds it back', () => {
  const response = new ServerResponse({ method: 'GET' } as IncomingMessage);
  const owner = Object.assign(new ManualOwner(), { secret: 'swordfish' });
  gateResponse(response, owner);
  expect(inspect(response, { depth: 10, showHidden: true })).not.toContain('swordfish');
});

it('the states of a prototype itself can be asked for', () => {
  prepareOnce();
  expect(() => [ofApp.headersSent, ofApp.writableEnded, ofExpress.headersSent]).not.toThrow();
});

// Edges of HTTP sessions that a review found: each of these was wrong once.
import { EventEmitter, once } from 'node:events';
import { createServer, request, type IncomingMessage, type ServerResponse } from 'node:http';
import { Readable, Transform, type TransformCallback } from 'node:stream';
import { Controller, Get, Req, StreamableFile, type ExecutionContext } from '@nestjs/common';
import type { AddressInfo } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { ActiveSession, RequireSession, RequireUser, Session, sessionOf } from '../../lib/index.js';
import { HttpSessions } from '../../lib/http/http-sessions.js';
import { isFromLoopback, mustBeHttp } from '../../lib/http/http-request.js';
import { gateResponse } from '../../lib/http/response-gate.js';
import { PLATFORMS, startApp, type Data } from './support/test-app.js';
import { WrappedStore } from './support/wrapped-store.js';

type Visitor = ActiveSession<Data & { slow?: number; f?: unknown }>;

/** Tells by the name of a route that its handler runs. */
const arrivals = new EventEmitter();

@Controller()
class EdgesController {
  @Get('stream')
  stream(@Session() session: Visitor) {
    session.data.views = 1;
    return new StreamableFile(Readable.from(Array.from({ length: 40 }, () => 'x'.repeat(1_000))));
  }

  @Get('user')
  @RequireUser()
  user(@Session() session: Visitor) {
    return { user: session.userId };
  }

  @Get('needed')
  @RequireSession()
  needed(@Session() session: Visitor) {
    return { stored: session.isStored };
  }

  @Get('broken')
  broken(@Session() session: Visitor) {
    session.data.f = () => 1;
    return { never: 'seen' };
  }

  @Get('slow')
  async slow(@Session() session: Visitor, @Req() request: IncomingMessage | { raw: IncomingMessage }) {
    const { socket } = 'raw' in request ? request.raw : request;
    const gone = once(socket, 'close');
    arrivals.emit('slow');
    await gone;
    session.data.slow = 1;
    return {};
  }
}

/** As the package `compression` does it: what is written goes through a stream, and its `drain` is that stream's. */
function compressing(_request: IncomingMessage, response: ServerResponse, next: () => void): void {
  const through = new Transform({
    transform: (chunk: Buffer, _encoding, done: TransformCallback) => done(null, chunk),
    highWaterMark: 64 * 1024,
  });
  const write = response.write.bind(response);
  const end = response.end.bind(response);
  const on = response.on.bind(response);
  through.on('data', (chunk: Buffer) => void write(chunk));
  through.on('end', () => void end());
  response.write = ((chunk: Buffer) => through.write(chunk)) as never;
  response.end = ((chunk?: Buffer) => {
    through.end(chunk);
    return response;
  }) as never;
  response.on = ((event: string, listener: () => void) => {
    if (event === 'drain') through.on(event, listener);
    else on(event, listener);
    return response;
  }) as never;
  next();
}

describe.each(PLATFORMS)('HTTP sessions over %s', (platform) => {
  it('a stream through middleware that leads drain elsewhere arrives whole', async () => {
    const app = await startApp(platform, {
      controllers: [EdgesController],
      before: (nest) => void nest.use(compressing),
    });
    const { status, body } = await app.send('/stream');
    expect([status, String(body).length]).toEqual([200, 40_000]);
  });

  it('@RequireUser() and @RequireSession() hold where the guard was forgotten', async () => {
    const app = await startApp(platform, { controllers: [EdgesController] });
    const visitor = await app.sessions.create({ name: 'Ada' });
    const user = await app.sessions.create({ name: 'Ada' }, { userId: 'ada' });
    expect((await app.send('/user')).status).toBe(401);
    expect((await app.send('/user', { cookie: visitor.token })).status).toBe(401);
    expect((await app.send('/user', { cookie: user.token })).body).toEqual({ user: 'ada' });
    expect((await app.send('/needed')).status).toBe(401);
    expect((await app.send('/needed', { cookie: visitor.token })).body).toEqual({ stored: true });
  });

  it('the answer in place of a failed one keeps the headers of CORS', async () => {
    const app = await startApp(platform, {
      controllers: [EdgesController],
      before: (nest) => nest.enableCors({ origin: 'https://app.test', credentials: true }),
    });
    const { status, headers } = await app.send('/broken', { headers: { origin: 'https://app.test' } });
    expect(status).toBe(500);
    expect(headers.get('access-control-allow-origin')).toBe('https://app.test');
    expect(headers.getSetCookie()).toEqual([]);
  });

  it('a change first made after the client has gone is saved, and no mistake of the app', async () => {
    const app = await startApp(platform, { controllers: [EdgesController] });
    const { token } = await app.sessions.create({ name: 'Ada' });
    const arrived = once(arrivals, 'slow');
    // Not by fetch(): when it is told to give up it connects anew, and the app's end waits for that connection.
    const asking = request(`${app.url}/slow`, { headers: { cookie: `sid=${token}` }, agent: false });
    asking.on('error', () => undefined);
    asking.end();
    await arrived;
    asking.destroy();
    await expect
      .poll(async () => (await app.sessions.get(token))?.data, { timeout: 5_000 })
      .toMatchObject({ slow: 1 });
    expect(app.logs.matching(/^error/)).toEqual([]);
  });

  it('two SessionModules do not take each other’s sessions for theirs, though they see one request', async () => {
    const customers = await startApp(platform, { controllers: [EdgesController] });
    const admins = await startApp(platform, { controllers: [EdgesController] });
    const { token } = await customers.sessions.create({ name: 'Ada' });
    const request = { headers: { cookie: `sid=${token}` } };
    const [ours, theirs] = [customers, admins].map(({ app }) => app.get(HttpSessions).of(request, undefined));
    expect(await ours!.find(false)).not.toBeNull();
    expect(await theirs!.find(false)).toBeNull();
    expect(customers.app.get(HttpSessions).of(request, undefined)).toBe(ours);
    expect(admins.app.get(HttpSessions).of(request, undefined)).toBe(theirs);
  });

  it('who is strict is answered by the store, though a copy answered for the same request before', async () => {
    const store = new WrappedStore({ exclusive: true });
    const app = await startApp(platform, { session: { store }, controllers: [EdgesController] });
    const http = app.app.get(HttpSessions);
    const { token } = await app.sessions.create({ name: 'Ada' });
    const request = { headers: { cookie: `sid=${token}` } };
    const held = http.of(request, undefined);
    const loose = await held.find(false);
    expect(loose).not.toBeNull();
    expect(await held.find(true)).toBe(loose);
    expect(sessionOf(request)).toBe(loose);
    const other = http.of({ headers: { cookie: `sid=${token}` } }, undefined);
    expect(await other.find(false)).not.toBeNull();
    await store.inner.destroy((await app.sessions.get(token))!.id); // by somebody who tells nobody
    expect(await other.find(true)).toBeNull();
    expect(await other.find(false)).toBeNull();
    // Nor does @Session() hand out what has ended: it is a new visitor's.
    expect(await other.obtain(true)).toMatchObject({ isStored: false, userId: null });
  });
});

it('headers given to writeHead() outlive the answer they came with, but for those of its body and its cookies', async () => {
  const server = createServer((_request, response) => {
    gateResponse(response, {
      commit: () => Promise.reject(new Error('not saved')),
      headers: () => [],
      onFailure: () => ({ status: 503, body: { statusCode: 503 } }),
    });
    response.writeHead(200, { 'X-Request-Id': '7', 'Content-Type': 'text/plain', 'Set-Cookie': 'own=1' });
    response.end('never seen');
  });
  onTestFinished(() => void server.close());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const reply = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  expect([reply.status, await reply.json()]).toEqual([503, { statusCode: 503 }]);
  expect(reply.headers.get('x-request-id')).toBe('7');
  expect(reply.headers.get('content-type')).toMatch(/json/);
  expect(reply.headers.getSetCookie()).toEqual([]);
});

it('what a proxy on this machine hands on does not come from this machine', () => {
  const socket = { remoteAddress: '127.0.0.1' } as IncomingMessage['socket'];
  expect(isFromLoopback({ headers: {}, socket })).toBe(true);
  for (const name of ['forwarded', 'x-forwarded-for', 'x-forwarded-proto', 'x-real-ip'])
    expect(isFromLoopback({ headers: { [name]: '192.0.2.1' }, socket })).toBe(false);
  expect(isFromLoopback({ headers: {}, socket: { remoteAddress: '192.0.2.1' } as never })).toBe(false);
});

it('a context that is not HTTP is refused with what to do, not with a TypeError', () => {
  class Gateway {}
  const context = {
    getType: () => 'ws',
    getClass: () => Gateway,
    getHandler: () => function onMessage() {},
  } as unknown as ExecutionContext;
  expect(() => mustBeHttp(context, '@Session()')).toThrow(/Gateway\.onMessage .*"ws".*getRequest/);
});

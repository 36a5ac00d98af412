// Every way a handler of an Express or Fastify app can answer. Each handler changes its session first.
import { createReadStream } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import {
  Catch,
  Controller,
  ForbiddenException,
  Get,
  HttpCode,
  Inject,
  Post,
  Redirect,
  Res,
  Sse,
  StreamableFile,
  UseFilters,
  type ArgumentsHost,
  type ExceptionFilter,
} from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { concatMap, from, of } from 'rxjs';
import { ActiveSession, Session, type HttpResponse } from '../../../lib/index.js';
import type { Data, Platform } from './test-app.js';

export interface Way {
  readonly name: string;
  readonly path: string;
  readonly method?: string;
  readonly status: number;
  /** The body as it must arrive. */
  readonly text: string;
  /** Headers that the handler sets, which must arrive too. */
  readonly headers?: Record<string, string>;
  /** Cookies that the handler sets. */
  readonly cookies?: readonly string[];
  /** Absent: both. */
  readonly only?: Platform;
}

const WAYS: readonly Way[] = [
  { name: 'returning an object', path: 'return', status: 200, text: '{"ok":true}' },
  { name: 'returning a string', path: 'text', status: 200, text: 'text' },
  { name: 'returning nothing', path: 'nothing', status: 200, text: '' },
  { name: 'returning an observable', path: 'observable', status: 200, text: '{"ok":true}' },
  { name: 'POST', path: 'post', method: 'POST', status: 201, text: '{"ok":true}' },
  { name: 'HEAD', path: 'return', method: 'HEAD', status: 200, text: '' },
  { name: '204', path: 'no-content', status: 204, text: '' },
  {
    name: 'throwing an HttpException',
    path: 'throw',
    status: 403,
    text: '{"message":"not you","error":"Forbidden","statusCode":403}',
  },
  {
    name: 'throwing anything else',
    path: 'crash',
    status: 500,
    text: '{"statusCode":500,"message":"Internal server error"}',
  },
  { name: 'an exception filter', path: 'filter', status: 418, text: '{"filtered":true}' },
  {
    name: '@Redirect()',
    path: 'redirect',
    status: 302,
    text: '',
    headers: { location: '/elsewhere' },
    only: 'fastify',
  },
  {
    name: '@Redirect()',
    path: 'redirect',
    status: 302,
    text: 'Found. Redirecting to /elsewhere',
    headers: { location: '/elsewhere' },
    only: 'express',
  },
  {
    name: 'a StreamableFile',
    path: 'file',
    status: 200,
    text: 'a file',
    headers: { 'content-type': 'application/octet-stream' },
  },
  {
    name: '@Sse()',
    path: 'sse',
    status: 200,
    text: '\nid: 1\ndata: one\n\nid: 2\ndata: two\n\n',
    headers: { 'content-type': 'text/event-stream' },
  },
  { name: '@Res() and send', path: 'send', status: 202, text: 'sent', headers: { 'x-own': '1' } },
  {
    name: '@Res({ passthrough: true })',
    path: 'passthrough',
    status: 203,
    text: '{"ok":true}',
    headers: { 'x-own': '1' },
    cookies: ['own=1'],
  },
  { name: 'end() of the raw response', path: 'raw-end', status: 200, text: 'raw' },
  { name: 'write(), write() and end()', path: 'writes', status: 200, text: 'abc' },
  { name: 'flushHeaders() first', path: 'flush', status: 200, text: 'flushed' },
  { name: 'a stream piped into the response', path: 'pipe', status: 200, text: 'abc' },
  { name: 'an async generator in a pipeline', path: 'pipeline', status: 200, text: 'abc' },
  {
    name: 'writeHead() with an object',
    path: 'write-head',
    status: 202,
    text: 'headed',
    headers: { 'x-own': '1' },
    cookies: ['own=1', 'other=2'],
  },
  {
    name: 'writeHead() with a flat array and a reason',
    path: 'write-head-array',
    status: 202,
    text: 'headed',
    headers: { 'x-own': '1' },
    cookies: ['own=1'],
  },
  { name: 'sendFile() of Express', path: 'send-file', status: 200, text: 'a file', only: 'express' },
  { name: 'a stream sent by Fastify', path: 'send-stream', status: 200, text: 'abc', only: 'fastify' },
  {
    name: 'reply.hijack() of Fastify',
    path: 'hijack',
    status: 200,
    text: 'hijacked',
    only: 'fastify',
  },
];

export const waysOf = (platform: Platform): readonly Way[] =>
  WAYS.filter(({ only }) => only === undefined || only === platform);

export const rawOf = (response: HttpResponse): ServerResponse =>
  'raw' in response ? response.raw : response;

/** What both frameworks' responses can do. */
type Reply = HttpResponse & {
  status(code: number): Reply;
  header(name: string, value: string): Reply;
  send(body: unknown): unknown;
  sendFile(path: string): void;
  hijack(): void;
};

type Session = ActiveSession<Data>;

/** Between the change and the answer of each handler; a test may put something there. */
export const hooks: { beforeAnswer?: ((session: Session) => unknown) | undefined } = {};

export const FILE = fileURLToPath(new URL('./a-file.txt', import.meta.url));

async function change(session: Session): Promise<void> {
  session.data.views = (session.data.views ?? 0) + 1;
  await hooks.beforeAnswer?.(session);
}

async function* letters() {
  for (const letter of 'abc') {
    yield letter;
    await new Promise(setImmediate);
  }
}

@Catch()
class TeapotFilter implements ExceptionFilter {
  constructor(@Inject(HttpAdapterHost) private readonly host: HttpAdapterHost) {}

  catch(_error: unknown, host: ArgumentsHost) {
    this.host.httpAdapter.reply(host.switchToHttp().getResponse(), { filtered: true }, 418);
  }
}

@Controller('way')
export class WayController {
  @Get('return')
  async return(@Session() session: Session) {
    await change(session);
    return { ok: true };
  }

  @Get('text')
  async text(@Session() session: Session) {
    await change(session);
    return 'text';
  }

  @Get('nothing')
  async nothing(@Session() session: Session) {
    await change(session);
  }

  @Get('observable')
  observable(@Session() session: Session) {
    return from(change(session)).pipe(concatMap(() => of({ ok: true })));
  }

  @Post('post')
  async post(@Session() session: Session) {
    await change(session);
    return { ok: true };
  }

  @Get('no-content')
  @HttpCode(204)
  async noContent(@Session() session: Session) {
    await change(session);
  }

  @Get('throw')
  async throw(@Session() session: Session) {
    await change(session);
    throw new ForbiddenException('not you');
  }

  @Get('crash')
  async crash(@Session() session: Session) {
    await change(session);
    throw new Error('a bug of the handler');
  }

  @Get('filter')
  @UseFilters(TeapotFilter)
  async filter(@Session() session: Session) {
    await change(session);
    throw new Error('for the filter');
  }

  @Get('redirect')
  @Redirect('/elsewhere')
  async redirect(@Session() session: Session) {
    await change(session);
  }

  @Get('file')
  async file(@Session() session: Session) {
    await change(session);
    return new StreamableFile(createReadStream(FILE));
  }

  @Sse('sse')
  async sse(@Session() session: Session) {
    await change(session);
    return of({ data: 'one' }, { data: 'two' });
  }

  @Get('send')
  async send(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    reply.status(202).header('x-own', '1').send('sent');
  }

  @Get('passthrough')
  async passthrough(@Session() session: Session, @Res({ passthrough: true }) reply: Reply) {
    await change(session);
    reply.status(203).header('x-own', '1').header('Set-Cookie', 'own=1');
    return { ok: true };
  }

  @Get('raw-end')
  async rawEnd(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    rawOf(reply).end('raw');
  }

  @Get('writes')
  async writes(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    const response = rawOf(reply);
    response.write('a');
    await new Promise((resolve) => response.write('b', resolve));
    response.end('c');
  }

  @Get('flush')
  async flush(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    rawOf(reply).flushHeaders();
    rawOf(reply).end('flushed');
  }

  @Get('pipe')
  async pipe(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    Readable.from(letters()).pipe(rawOf(reply));
  }

  @Get('pipeline')
  async pipeline(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    await pipeline(letters(), rawOf(reply));
  }

  @Get('write-head')
  async writeHead(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    rawOf(reply)
      .writeHead(202, {
        'set-cookie': ['own=1', 'other=2'],
        'cache-control': 'public, max-age=60',
        'x-own': '1',
      })
      .end('headed');
  }

  @Get('write-head-array')
  async writeHeadArray(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    // Only one cookie: of several in an array Node itself keeps the last, if anything was set before.
    const headers = ['Set-Cookie', 'own=1', 'Cache-Control', 'public', 'X-Own', '1'];
    rawOf(reply).writeHead(202, 'Fine', headers).end('headed');
  }

  @Get('send-file')
  async sendFile(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    reply.sendFile(FILE);
  }

  @Get('send-stream')
  async sendStream(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    reply.send(Readable.from(letters()));
  }

  @Get('hijack')
  async hijack(@Session() session: Session, @Res() reply: Reply) {
    await change(session);
    reply.hijack();
    rawOf(reply).end('hijacked');
  }
}

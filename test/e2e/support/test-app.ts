// Small real Nest apps over real HTTP: one builder, so that the same expectations run on Express and on Fastify.
import { request as httpRequest } from 'node:http';
import { Module, type INestApplication, type LoggerService, type ModuleMetadata } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { onTestFinished } from 'vitest';
import {
  CacheService,
  SessionEvents,
  SessionModule,
  SessionRegistry,
  SessionService,
  type SessionModuleOptions,
} from '../../../lib/index.js';

export const PLATFORMS = ['express', 'fastify'] as const;
export type Platform = (typeof PLATFORMS)[number];

/** The session data of the e2e apps. */
export interface Data {
  name: string;
  views?: number;
}

export interface Reply {
  status: number;
  body: unknown;
  headers: Headers;
}

/** What a request carries. `cookie` and `bearer` hold a token, `headers` anything else. */
export interface Carried {
  cookie?: string;
  bearer?: string;
  headers?: Record<string, string>;
  method?: string;
}

export interface TestApp {
  readonly app: INestApplication;
  readonly url: string;
  readonly logs: Logs;
  readonly sessions: SessionService<Data>;
  readonly registry: SessionRegistry;
  readonly cache: CacheService;
  readonly events: SessionEvents;
  send(path: string, carried?: Carried): Promise<Reply>;
  /** Sends header lines as they are, repeated ones and all: `fetch` would join or refuse them. */
  sendRaw(path: string, lines: readonly (readonly [name: string, value: string])[]): Promise<Reply>;
  close(): Promise<void>;
}

export interface AppSpec extends ModuleMetadata {
  /** Options of `SessionModule.forRoot`; null when `imports` brings the module itself. */
  session?: SessionModuleOptions | null;
  /** Called before `listen`, for middleware. */
  before?: (app: INestApplication) => void;
}

export const DEFAULT_COOKIE = 'sid'; // outside production, where cookies are not Secure
export const UNAUTHORIZED = { statusCode: 401, message: 'Unauthorized' };

/** Every line the app logs, in order, as `level text`. Nothing is printed. */
export class Logs implements LoggerService {
  readonly lines: string[] = [];
  log(message: unknown): void {
    this.#add('log', message);
  }
  error(message: unknown): void {
    this.#add('error', message);
  }
  warn(message: unknown): void {
    this.#add('warn', message);
  }
  fatal(message: unknown): void {
    this.#add('fatal', message);
  }
  debug(message: unknown): void {
    this.#add('debug', message);
  }
  verbose(message: unknown): void {
    this.#add('verbose', message);
  }
  matching(pattern: RegExp): string[] {
    return this.lines.filter((line) => pattern.test(line));
  }
  #add(level: string, message: unknown): void {
    this.lines.push(`${level} ${message instanceof Error ? message.stack : String(message)}`);
  }
}

/** An app that has not listened yet; rejects with what stopped the boot. */
export async function createApp(
  platform: Platform,
  { session = {}, before, ...metadata }: AppSpec,
  logs = new Logs(),
): Promise<INestApplication> {
  class AppModule {}
  const imports = [...(metadata.imports ?? [])];
  if (session !== null) imports.unshift(SessionModule.forRoot(session));
  Module({ ...metadata, imports })(AppModule);
  const app = await NestFactory.create(
    AppModule,
    platform === 'express' ? new ExpressAdapter() : new FastifyAdapter(),
    { logger: logs, abortOnError: false },
  );
  onTestFinished(() => app.close());
  before?.(app);
  return app;
}

/** A listening app, closed when the test ends. */
export async function startApp(platform: Platform, spec: AppSpec): Promise<TestApp> {
  const logs = new Logs();
  const app = await createApp(platform, spec, logs);
  await app.listen(0, '127.0.0.1');
  const url = (await app.getUrl()).replace('[::1]', '127.0.0.1');
  return {
    app,
    url,
    logs,
    sessions: app.get<SessionService<Data>>(SessionService, { strict: false }),
    registry: app.get(SessionRegistry, { strict: false }),
    cache: app.get(CacheService, { strict: false }),
    events: app.get(SessionEvents, { strict: false }),
    send: async (path, { cookie, bearer, headers = {}, method = 'GET' } = {}) => {
      const response = await fetch(url + path, {
        method,
        headers: {
          ...(cookie !== undefined && { cookie: `${DEFAULT_COOKIE}=${cookie}` }),
          ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }),
          ...headers,
        },
      });
      return { status: response.status, body: parse(await response.text()), headers: response.headers };
    },
    sendRaw: (path, lines) => sendRaw(url + path, lines),
    close: () => app.close(),
  };
}

function sendRaw(url: string, lines: readonly (readonly [string, string])[]): Promise<Reply> {
  const { host } = new URL(url);
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest(
      url,
      { headers: ['Host', host, 'Connection', 'close', ...lines.flat()] },
      (incoming) => {
        let text = '';
        incoming.setEncoding('utf8');
        incoming.on('data', (chunk: string) => (text += chunk));
        incoming.on('error', reject);
        incoming.on('end', () =>
          resolve({ status: incoming.statusCode ?? 0, body: parse(text), headers: new Headers() }),
        );
      },
    );
    outgoing.on('error', reject);
    outgoing.end();
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text; // handlers that return a string answer in plain text
  }
}

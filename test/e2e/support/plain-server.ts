// Plain `node:http` servers whose sessions come from `attachSession`, with handlers written where they are tested.
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Module, type INestApplicationContext } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { expect, onTestFinished } from 'vitest';
import {
  HttpSessionService,
  RedisSubscriber,
  SESSION_STORE,
  SessionModule,
  SessionService,
  type AttachSessionOptions,
  type FieldSession,
  type SessionModuleOptions,
  type SessionStore,
} from '../../../lib/index.js';
import { waitFor } from '../../support/wait-for.js';
import { CookieJar, type Answer, type Ask } from './http-client.js';
import { Logs } from './test-app.js';
import { onRedis } from './test-redis.js';

export const STORES = ['memory', 'Redis'] as const;
export type StoreName = (typeof STORES)[number];

type Fields = Record<string, unknown>;

export type PlainHandler = (
  session: FieldSession,
  response: ServerResponse,
  request: IncomingMessage,
) => unknown;

/** A Nest app without a web framework, closed when the test ends. Rejects with what stopped the boot. */
export async function bootContext(
  session: SessionModuleOptions,
): Promise<{ app: INestApplicationContext; logs: Logs }> {
  class AppModule {}
  Module({ imports: [SessionModule.forRoot(session)] })(AppModule);
  const logs = new Logs();
  const app = await NestFactory.createApplicationContext(AppModule, { logger: logs, abortOnError: false });
  onTestFinished(() => app.close());
  return { app, logs };
}

/** Listens until the test ends, and tells where. */
export async function listen(listener: RequestListener): Promise<string> {
  const server = createServer(listener);
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export class PlainServer {
  readonly #handlers: PlainHandler[] = [];
  /** What handlers threw; the test fails if it leaves something here. */
  readonly thrown: unknown[] = [];
  readonly sessions: SessionService<Fields>;
  readonly store: SessionStore;
  readonly http: HttpSessionService;
  url = '';

  private constructor(
    app: INestApplicationContext,
    readonly logs: Logs,
  ) {
    this.sessions = app.get<SessionService<Fields>>(SessionService);
    this.store = app.get<SessionStore>(SESSION_STORE);
    this.http = app.get(HttpSessionService);
  }

  static async start(
    store: StoreName,
    session: SessionModuleOptions = {},
    attach?: AttachSessionOptions,
  ): Promise<PlainServer> {
    const { app, logs } = await bootContext({ ...(store === 'Redis' && onRedis()), ...session });
    const server = new PlainServer(app, logs);
    const { attachSession } = server.http; // as the documents show it
    server.url = await listen((request, response) => {
      const fail = (error: unknown) => {
        server.thrown.push(error);
        response.destroy();
      };
      try {
        const handler = server.#handlers[Number(request.url?.slice(1))]!;
        Promise.resolve(handler(attachSession(request, response, attach), response, request)).catch(fail);
      } catch (error) {
        fail(error);
      }
    });
    onTestFinished(() => expect(server.thrown).toEqual([]));
    if (store === 'Redis') await waitFor(() => app.get(RedisSubscriber).state === 'live');
    return server;
  }

  client(): CookieJar {
    return new CookieJar(this.url);
  }

  /** The path under which this handler runs. */
  pathOf(handler: PlainHandler): string {
    return `/${this.#handlers.push(handler) - 1}`;
  }

  /** One request whose handler this is. */
  run(client: CookieJar, handler: PlainHandler, asked?: Ask): Promise<Answer> {
    return client.ask(this.pathOf(handler), asked);
  }

  /** One request; the answer's body is what this resolves to. */
  async value(client: CookieJar, use: (session: FieldSession) => unknown): Promise<unknown> {
    const { status, body } = await this.run(client, async (session, response) => {
      const value = await use(session);
      response.end(JSON.stringify({ value }));
    });
    expect(status).toBe(200);
    return (body as { value?: unknown }).value;
  }

  /** The fields that the store holds for the client; null without a session. */
  async stored(token: string | undefined): Promise<Fields | null> {
    const found = await this.sessions.get(token, { fresh: true });
    return found === null ? null : { ...found.data };
  }
}

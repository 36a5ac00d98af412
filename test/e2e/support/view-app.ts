// Apps with `expressView`, whose handlers are written where they are tested.
import { All, Controller, Param, Req, Res } from '@nestjs/common';
import type { ServerResponse } from 'node:http';
import {
  SESSION_STORE,
  type ExpressSession,
  type HttpRequest,
  type HttpResponse,
  type SessionModuleOptions,
  type SessionRecord,
  type SessionStore,
} from '../../../lib/index.js';
import type { Answer, Ask, CookieJar } from './http-client.js';
import { PLATFORMS, startApp, type AppSpec, type Platform, type TestApp } from './test-app.js';
import { onRedis, untilLive } from './test-redis.js';

export const STORES = ['memory', 'Redis'] as const;
export type Store = (typeof STORES)[number];
export const EVERYWHERE = PLATFORMS.flatMap((platform) => STORES.map((store) => [platform, store] as const));

/** The fields that the tests use. */
export interface View extends ExpressSession {
  views?: number;
  name?: string;
  cart?: string[];
  passport?: { user?: unknown };
  [field: string]: unknown;
}

export type ViewRequest = Omit<HttpRequest, 'raw'> & {
  session: View;
  sessionID?: string;
  user?: { id: unknown };
  raw?: ViewRequest;
  login(user: object, done: (error?: unknown) => void): void;
  login(user: object, options: object, done: (error?: unknown) => void): void;
  logout(done: (error?: unknown) => void): void;
  logout(options: object, done: (error?: unknown) => void): void;
  flash(type: string, message?: string): string[];
};

export type ViewResponse = HttpResponse & { session: View; raw?: ServerResponse };

export type Handler = (request: ViewRequest, response: ViewResponse) => unknown;

/** What is not yet asked for, by the number in its path. */
const handlers = new Map<string, Handler>();
let count = 0;

@Controller('run')
export class RunController {
  @All(':number')
  run(
    @Param('number') number: string,
    @Req() request: ViewRequest,
    @Res({ passthrough: true }) response: ViewResponse,
  ) {
    return handlers.get(number)!(request, response);
  }
}

/** A path under which {@link RunController} runs this. */
export function pathOf(handler: Handler): string {
  handlers.set(String(++count), handler);
  return `/run/${count}`;
}

/** One request of this client to a route with this handler. */
export function run(client: CookieJar, handler: Handler, asked?: Ask): Promise<Answer> {
  return client.ask(pathOf(handler), asked);
}

/** The same with the session only. */
export function withSession(
  client: CookieJar,
  handler: (session: View) => unknown,
  asked?: Ask,
): Promise<Answer> {
  return run(client, ({ session }) => handler(session), asked);
}

/** Node's own request: Fastify's middleware and passport's `session()` write to it. */
export const rawRequestOf = (request: ViewRequest): ViewRequest => request.raw ?? request;

export async function startView(
  platform: Platform,
  store: Store,
  { session, controllers = [], ...rest }: AppSpec = {},
): Promise<TestApp> {
  const onStore: SessionModuleOptions = store === 'Redis' ? onRedis() : {};
  const app = await startApp(platform, {
    ...rest,
    controllers: [RunController, ...controllers],
    session: session === null ? null : { ...onStore, expressView: true, ...session },
  });
  if (store === 'Redis' && session !== null && session?.cache !== false) await untilLive(app);
  return app;
}

/** What the store holds of the client's session now. */
export async function storedOf(
  { sessions }: Pick<TestApp, 'sessions'>,
  client: CookieJar,
): Promise<
  | (Pick<SessionRecord, 'id' | 'userId' | 'idleTimeout' | 'createdAt'> & {
      data: Record<string, unknown>;
      expiresIn: number | null;
    })
  | null
> {
  const found = await sessions.get(client.value(), { fresh: true });
  if (found === null) return null;
  const { id, userId, idleTimeout, createdAt, expiresIn } = found;
  return { id, userId, idleTimeout, createdAt, expiresIn, data: { ...found.data } };
}

/** How many sessions of anybody the store holds. */
export const countOf = ({ app }: Pick<TestApp, 'app'>): Promise<number> =>
  app.get<SessionStore>(SESSION_STORE, { strict: false }).length();

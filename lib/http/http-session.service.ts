import { Inject, Injectable } from '@nestjs/common';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { SessionArgumentError } from '../errors/caller.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import { SESSION_OPTIONS } from '../session.constants.js';
import { FieldSession } from './field-session.js';
import { HttpSessions } from './http-sessions.js';
import { ManagedCookieTransport, type CookieManager } from './token-transport.js';

/** @publicApi */
export interface AttachSessionOptions {
  /**
   * The app's own cookie manager for this response, e.g. `new Cookies(request, response)`, or a function that makes one.
   * @default cookies are read and set by this package
   */
  cookies?: CookieManager | ((request: IncomingMessage, response: ServerResponse) => CookieManager);
}

/**
 * Sessions for servers without a web framework: plain `node:http`, or anything that has its request and response.
 *
 * ```ts
 * const app = await NestFactory.createApplicationContext(AppModule);
 * const { attachSession } = app.get(HttpSessionService);
 * createServer(async (request, response) => {
 *   const session = attachSession(request, response);
 *   await session.set('seen', true);
 *   response.end('hello');
 * });
 * ```
 *
 * @publicApi
 */
@Injectable()
export class HttpSessionService {
  constructor(
    @Inject(HttpSessions) private readonly http: HttpSessions,
    @Inject(SESSION_OPTIONS) private readonly options: ResolvedSessionOptions,
  ) {}

  /**
   * The session of a request, by the module's `transport` and `cookie` options. Nothing is looked for before a method is
   * called. Call it before the response begins; `writeHead` may be called before the session is used, the first byte not.
   */
  readonly attachSession = (
    request: IncomingMessage,
    response: ServerResponse,
    options: AttachSessionOptions = {},
  ): FieldSession => {
    const { cookies, ...unknown } = options;
    const [name] = Object.keys(unknown);
    if (name !== undefined)
      throw new SessionArgumentError(`options.${name}`, 'is not known. Known: cookies.');
    const manager = typeof cookies === 'function' ? cookies(request, response) : cookies;
    const held = this.http.of(request, response, request, this.#transports(manager, response));
    held.hold({ deferHead: true });
    return new FieldSession(held);
  };

  /** Middleware for Connect, Express and the like: sets `request.session` and `response.session` to {@link attachSession}'s. */
  middleware(
    options: { cookies?: (request: IncomingMessage, response: ServerResponse) => CookieManager } = {},
  ): (request: IncomingMessage, response: ServerResponse, next: () => void) => void {
    // One manager would set the cookies of every request on one response.
    if (options.cookies !== undefined && typeof options.cookies !== 'function') {
      throw new SessionArgumentError(
        'options.cookies',
        'must be a function here, that makes a manager for each response. Write (request, response) => new Cookies(request, response).',
      );
    }
    if (this.http.rules !== null) {
      throw new SessionArgumentError(
        'middleware',
        'and expressView: true both set request.session. Drop one of them.',
      );
    }
    return (request, response, next) => {
      const session = this.attachSession(request, response, options);
      Object.assign(request, { session });
      Object.assign(response, { session });
      next();
    };
  }

  #transports(manager: CookieManager | undefined, response: ServerResponse) {
    if (manager === undefined) return undefined;
    if (typeof manager.get !== 'function' || typeof manager.set !== 'function') {
      throw new SessionArgumentError(
        'options.cookies',
        'must have the methods get and set. Pass e.g. new Cookies(request, response).',
      );
    }
    const own = new ManagedCookieTransport(this.options.cookie, manager, response);
    return this.http.transports.map((transport, index) =>
      this.options.transport[index] === 'cookie' ? own : transport,
    );
  }
}

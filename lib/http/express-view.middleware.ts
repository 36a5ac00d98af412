import type { AbstractHttpAdapter, HttpAdapterHost } from '@nestjs/core';
import { SessionOptionsError } from '../errors/caller.errors.js';
import type { HttpRequest, HttpResponse } from './http-request.js';
import type { HttpSessions } from './http-sessions.js';
import { RequestView, type ExpressSession } from './express-view.js';
import type { ViewRules } from './view-rules.js';

/** Where the view of a request lies on Node's request. */
const VIEW = Symbol('nestjs-sessionkit:view');

type Viewed = HttpRequest & { [VIEW]?: RequestView };

/**
 * Sets `request.session` for everything that follows, middleware of `main.ts` too: so it is there as soon as there is
 * an HTTP adapter, while Nest makes its providers, and not when modules are initialised.
 *
 * @returns throws what kept it from being set, for the boot to stop
 */
export function attachExpressViews(host: HttpAdapterHost, http: HttpSessions, rules: ViewRules): () => void {
  let failure: Error | undefined;
  const attach = () => {
    // Null where the app is a context without a server.
    const adapter = host.httpAdapter as AbstractHttpAdapter | null | undefined;
    if (adapter) attachTo(adapter, http, rules);
  };
  if (host.httpAdapter !== undefined) attach();
  else {
    // @nestjs/testing makes the app after its providers.
    host.init$.subscribe(() => {
      try {
        attach();
      } catch (error) {
        failure = error as Error; // a subscriber that throws would end the process
      }
    });
  }
  return () => {
    if (failure !== undefined) throw failure;
  };
}

function attachTo(adapter: AbstractHttpAdapter, http: HttpSessions, rules: ViewRules): void {
  if (adapter.getType() === 'fastify') {
    const fastify = adapter.getInstance<FastifyLike>();
    if (fastify.hasRequestDecorator('session') || fastify.hasReplyDecorator('session')) {
      throw new SessionOptionsError(
        'expressView',
        'would set request.session, which a Fastify plugin has already declared. Remove that plugin, or drop expressView.',
      );
    }
    fastify.decorateRequest(
      'session',
      accessor(function (this: HttpRequest) {
        return sessionOfView(this.raw as Viewed);
      }),
    );
    fastify.decorateRequest(
      'sessionID',
      accessor(function (this: HttpRequest) {
        return sessionOfView(this.raw as Viewed)?.id;
      }),
    );
    fastify.decorateReply(
      'session',
      accessor(function (this: { request: HttpRequest }) {
        return sessionOfView(this.request.raw as Viewed);
      }),
    );
  }
  adapter.use((request: Viewed, response: HttpResponse, next: () => void) => {
    if ('session' in request) return next(); // another session middleware was here before
    const held = http.of(request, response);
    Object.defineProperties(request, ON_REQUEST);
    Object.defineProperty(response, 'session', ON_RESPONSE);
    const view = (request[VIEW] = new RequestView(held, rules));
    const found = held.find(false, 'deny'); // what the route wants then is not known yet
    if (!(found instanceof Promise)) return next();
    // Routes that use no session work while the store is down; the others are answered when they ask for theirs.
    found.catch((error: unknown) => view.fail(error)).finally(next);
  });
}

/** The part of a Fastify instance that is used here. */
interface FastifyLike {
  hasRequestDecorator(name: string): boolean;
  hasReplyDecorator(name: string): boolean;
  decorateRequest(name: string, accessor: object): void;
  decorateReply(name: string, accessor: object): void;
}

function sessionOfView(request: Viewed): ExpressSession | undefined {
  return request[VIEW]?.session;
}

function refuse(): never {
  throw new TypeError(
    'request.session cannot be replaced: change its fields, or end it by await request.session.destroy()',
  );
}

function accessor(getter: () => unknown): object {
  return { getter, setter: refuse };
}

// Made once: every request gets the same functions.
const ON_REQUEST = {
  session: {
    configurable: true,
    enumerable: true,
    get(this: Viewed): ExpressSession | undefined {
      return sessionOfView(this);
    },
    set: refuse,
  },
  sessionID: {
    configurable: true,
    get(this: Viewed): string | undefined {
      return sessionOfView(this)?.id;
    },
  },
};

const ON_RESPONSE = {
  configurable: true,
  get(this: { req: Viewed }): ExpressSession | undefined {
    return sessionOfView(this.req);
  },
  set: refuse,
};

import type { ExecutionContext } from '@nestjs/common';
import { IncomingMessage, ServerResponse } from 'node:http';
import type { ActiveSession } from '../core/active-session.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import type { RequestHeaders } from '../core/token-transport.interface.js';
import { keptOf } from './kept.js';
import type { RequestSession } from './request-session.js';

/**
 * A request as handlers see it: of Express (Node's own, with more on it), of Fastify (around Node's, in `raw`), or
 * Node's own. Frameworks derive `ip`, `protocol` and `host` as their trust in proxies says.
 */
export interface HttpRequest extends RequestHeaders {
  readonly method?: string | undefined;
  readonly ip?: string | undefined;
  readonly protocol?: string | undefined;
  readonly host?: string | undefined;
  readonly raw?: IncomingMessage;
  readonly socket?: IncomingMessage['socket'];
}

/** The same of responses: Node's own, or Fastify's around it. */
export type HttpResponse = ServerResponse | { readonly raw: ServerResponse };

export function rawResponse(response: HttpResponse): ServerResponse {
  return response instanceof ServerResponse || !('raw' in response) ? response : response.raw;
}

/**
 * The session that a request came with, for guards and interceptors of the app's own that run after `SessionGuard`: null
 * when there is none, undefined when nobody has looked for it yet.
 *
 * @publicApi
 */
export function sessionOf(request: HttpRequest): ActiveSession<object> | null | undefined {
  return heldBy(request)?.current;
}

export function heldBy(request: HttpRequest): RequestSession | undefined {
  return keptOf(nodeRequestOf(request))?.session;
}

/** Node's own request. On Express, looking for a property that is not there costs as much as a lookup in the near cache. */
export function nodeRequestOf(request: HttpRequest): object {
  return request instanceof IncomingMessage ? request : (request.raw ?? request);
}

/** The address the request came from, without trust in headers. */
export function isFromLoopback(request: HttpRequest): boolean {
  const { headers } = request;
  // Handed on by a proxy on this machine: who knows from where.
  if (headers.forwarded ?? headers['x-forwarded-for'] ?? headers['x-forwarded-proto'] ?? headers['x-real-ip'])
    return false;
  const address = (request.raw ?? request).socket?.remoteAddress;
  return address !== undefined && /^(::1|(::ffff:)?127\.\d+\.\d+\.\d+)$/.test(address);
}

export function isOverTls(request: HttpRequest): boolean {
  const { socket } = request.raw ?? request;
  return request.protocol === 'https' || (socket !== undefined && 'encrypted' in socket);
}

/** Request and response of an HTTP handler's context; null of another kind (a socket, a message, GraphQL). */
export function exchangeOf(
  context: ExecutionContext,
): { readonly request: HttpRequest; readonly response: HttpResponse } | null {
  if (context.getType() !== 'http') return null;
  // What switchToHttp() reads too; that makes three closures for it, for every request.
  return { request: context.getArgByIndex<HttpRequest>(0), response: context.getArgByIndex<HttpResponse>(1) };
}

/** The same where nothing else will do. */
export function mustBeHttp(
  context: ExecutionContext,
  who: string,
): NonNullable<ReturnType<typeof exchangeOf>> {
  const exchange = exchangeOf(context);
  if (exchange !== null) return exchange;
  throw new SessionArgumentError(
    who,
    `on ${context.getClass().name}.${context.getHandler().name} finds no HTTP request in a context of type "${context.getType()}". ` +
      'Use it on HTTP routes, or a subclass of SessionGuard that overrides getRequest.',
  );
}

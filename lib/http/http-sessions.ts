import { HttpException, Logger } from '@nestjs/common';
import type { ActiveSession } from '../core/active-session.js';
import { checkMetadata } from '../core/session-metadata.js';
import type { SessionMetadata } from '../core/session-record.interface.js';
import type { SessionService } from '../core/session.service.js';
import type { CarriedSession, TokenTransport } from '../core/token-transport.interface.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import type { ResolvedSessionOptions, StoreUnavailablePolicy } from '../options/session-options.interface.js';
import { isUnsafe, refuseCrossSite } from './csrf.js';
import { isAnswerable, toHttpException } from './http-errors.js';
import {
  isFromLoopback,
  isOverTls,
  nodeRequestOf,
  rawResponse,
  type HttpRequest,
  type HttpResponse,
} from './http-request.js';
import { keep, keptOf } from './kept.js';
import { RequestSession, type HttpSessionServices } from './request-session.js';
import type { ReplacementAnswer } from './response-gate.js';
import { CookieTransport } from './token-transport.js';
import type { ViewRules } from './view-rules.js';

/**
 * Sessions of HTTP requests: one {@link RequestSession} per request, whoever asks for it.
 */
export class HttpSessions implements HttpSessionServices {
  readonly #logger = new Logger('SessionModule');
  readonly #said = new Set<string>();
  readonly #besides = new WeakMap<object, RequestSession>();
  /** Throws what kept `request.session` from being set up. */
  checkAttached: () => void = () => undefined;

  constructor(
    readonly sessions: SessionService<object>,
    readonly transports: readonly TokenTransport[],
    private readonly options: Pick<
      ResolvedSessionOptions,
      'cookie' | 'csrf' | 'captureMetadata' | 'additionalFields' | 'onStoreUnavailable'
    >,
    /** Null unless the app has `expressView`. */
    readonly rules: ViewRules | null = null,
  ) {}

  get onStoreUnavailable(): StoreUnavailablePolicy {
    return this.options.onStoreUnavailable;
  }

  /**
   * @param request where the token is read
   * @param response absent where nothing is answered by HTTP: then nothing is saved by itself
   * @param owner the handler's request, where a guard reads the token from something else
   * @param transports other than the module's; only where nobody has asked for the request's session before
   */
  of(
    request: HttpRequest,
    response: HttpResponse | undefined,
    owner = request,
    transports?: readonly TokenTransport[],
  ): RequestSession {
    const raw = nodeRequestOf(owner);
    const held = keptOf(raw)?.session;
    if (held?.services === this) {
      if (transports !== undefined) {
        throw new SessionArgumentError(
          'options.cookies',
          'comes too late: somebody has asked for the session of this request before. Attach it once.',
        );
      }
      return held;
    }
    // Another SessionModule's, with sessions of its own: never to be taken for ours.
    const known = held === undefined ? undefined : this.#besides.get(raw);
    if (known !== undefined) return known;
    const made = new RequestSession(
      this,
      request,
      response === undefined ? undefined : rawResponse(response),
      transports,
    );
    if (held === undefined) keep(raw).session = made;
    else this.#besides.set(raw, made);
    return made;
  }

  /** @throws {ForbiddenException} if another site caused the request, where that matters */
  checkOrigin(request: HttpRequest, session: RequestSession): void {
    const { csrf } = this.options;
    if (csrf !== false && isUnsafe(request) && session.isAmbient) refuseCrossSite(request, csrf);
  }

  mayWrite(transport: TokenTransport, request: HttpRequest): boolean {
    const { cookie } = this.options;
    if (!(transport instanceof CookieTransport) || isOverTls(request) || isFromLoopback(request)) return true;
    if (cookie.secure) {
      this.#once(
        'warn',
        'A Secure cookie was sent over plain HTTP, where browsers drop it. Serve the app over TLS; behind a proxy that ' +
          "does, let the app trust it: app.set('trust proxy', 1) on Express, new FastifyAdapter({ trustProxy: true }) on Fastify.",
      );
      return true;
    }
    if (!cookie.decided) return true;
    this.#once(
      'error',
      "No session cookie is set for clients on other machines over plain HTTP (cookie.secure: 'auto' outside production). " +
        'Use TLS, or set cookie.secure: false to allow it.',
    );
    return false;
  }

  metadataOf(request: HttpRequest): SessionMetadata {
    const { captureMetadata, additionalFields } = this.options;
    if (captureMetadata === false) return {};
    if (captureMetadata !== true) return checkMetadata(captured(captureMetadata(request)), additionalFields);
    const { ip, headers, raw } = request;
    const userAgent = headers['user-agent'];
    return checkMetadata({
      ip: ip ?? (raw ?? request).socket?.remoteAddress,
      userAgent: typeof userAgent === 'string' ? userAgent : undefined,
    } as SessionMetadata);
  }

  renews(transport: TokenTransport | undefined, session: ActiveSession<object>): boolean {
    if (transport === undefined) return false;
    const life =
      transport instanceof CookieTransport && session.isStored
        ? this.rules?.cookieLifeOf(session)
        : undefined;
    return life === undefined ? transport.renews === true : life !== null;
  }

  carried(session: ActiveSession<object>): CarriedSession {
    const maxAge = this.rules?.cookieLifeOf(session);
    return maxAge === undefined ? session : { token: session.token, expiresIn: session.expiresIn, maxAge };
  }

  toAnswer(error: unknown): ReplacementAnswer {
    if (isAnswerable(error)) {
      const exception = toHttpException(error);
      return { status: exception.getStatus(), body: exception.getResponse() };
    }
    if (error instanceof HttpException) return { status: error.getStatus(), body: error.getResponse() };
    this.#logger.error(
      'The session could not be saved before the response',
      error instanceof Error ? error.stack : String(error),
    );
    return { status: 500, body: { statusCode: 500, message: 'Internal server error' } };
  }

  onLateFailure(error: unknown): void {
    this.#logger.error(
      'An operation on a session failed after the response had begun; await it, or give it a callback',
      error instanceof Error ? error.stack : String(error),
    );
  }

  onLateChange({ id }: ActiveSession<object>): void {
    this.#logger.error(
      `Session ${id} was changed after the response had begun: the change was not saved, or its client was not told the ` +
        'new token. Sign in and out, and store a new session, before the response; later changes need await session.save().',
    );
  }

  #once(level: 'warn' | 'error', message: string): void {
    if (this.#said.has(message)) return;
    this.#said.add(message);
    this.#logger[level](message);
  }
}

/** @throws {SessionArgumentError} if the app's function gave anything but an object of fields */
function captured(found: unknown): SessionMetadata {
  if (found instanceof Promise)
    found.catch(() => undefined); // what it rejects with is of no use any more
  else if (typeof found === 'object' && found !== null && !Array.isArray(found)) return found;
  const got =
    found instanceof Promise
      ? 'a promise'
      : found === null
        ? 'null'
        : Array.isArray(found)
          ? 'an array'
          : typeof found;
  throw new SessionArgumentError(
    'captureMetadata',
    `must return an object of metadata, at once; got ${got}. Return {} where there is none.`,
  );
}

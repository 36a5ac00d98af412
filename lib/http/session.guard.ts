import {
  Inject,
  Injectable,
  UnauthorizedException,
  type CanActivate,
  type ExecutionContext,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { ActiveSession } from '../core/active-session.js';
import { SessionService } from '../core/session.service.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import {
  SESSION_ACCESS,
  SESSION_OF_REQUEST,
  SESSION_STRICT,
  SESSION_TRANSPORT,
} from '../session.constants.js';
import { toHttpException } from './http-errors.js';
import type { GuardedRequest, SessionAccess } from './session.decorators.js';
import type { RequestHeaders, TokenTransport } from './token-transport.js';

interface RoutePolicy {
  readonly target: object;
  readonly access: SessionAccess | undefined;
  readonly strict: boolean;
}

/**
 * Lets a request through if it carries the token of a live session, and leaves the session for `@Session()`.
 *
 * No session: 401. A store that cannot answer: 503, never "signed out" and never "let in". Both with a generic body.
 * For `@UseGuards(SessionGuard)`, or for the whole app: `{ provide: APP_GUARD, useExisting: SessionGuard }`; see
 * `@OptionalSession()` and `@PublicSession()` for the exceptions. A request with a session counts as use of it
 * (a touch, in the background, at most once per `touchInterval`).
 *
 * @publicApi
 */
@Injectable()
export class SessionGuard implements CanActivate {
  readonly #policies = new WeakMap<object, RoutePolicy>();

  constructor(
    @Inject(SessionService) private readonly sessions: SessionService<object>,
    @Inject(SESSION_TRANSPORT) private readonly transport: TokenTransport,
    @Inject(Reflector) private readonly reflector: Reflector,
  ) {}

  // Answers without a promise where the near cache does: that is nearly every request.
  canActivate(context: ExecutionContext): boolean | Promise<boolean> {
    const request = this.getRequest(context);
    const { access, strict } = this.#policyOf(context);
    if (access === 'public') return accept(request, null);
    const token = this.transport.read(request);
    if (token === undefined) return this.#decide(context, request, access, null);
    const cached = strict ? null : this.sessions.getCached(token);
    if (cached !== null) return this.#decide(context, request, access, cached);
    return this.#load(context, request, access, token, strict);
  }

  /** Override it for transports in which the request lies elsewhere. */
  protected getRequest(context: ExecutionContext): RequestHeaders & GuardedRequest {
    return context.switchToHttp().getRequest();
  }

  /** What is thrown when the route needs a session and the request has none. Override it for another answer. */
  protected onDenied(_context: ExecutionContext): Error {
    return new UnauthorizedException();
  }

  /** What the decorators of a route say never changes, and looking it up costs more than a hit of the near cache. */
  #policyOf(context: ExecutionContext): RoutePolicy {
    const handler = context.getHandler();
    const target = context.getClass();
    const known = this.#policies.get(handler);
    if (known !== undefined && known.target === target) return known; // a handler may be inherited by several classes
    const read = <V>(key: string) => this.reflector.getAllAndOverride<V | undefined>(key, [handler, target]);
    const policy = {
      target,
      access: read<SessionAccess>(SESSION_ACCESS),
      strict: read<boolean>(SESSION_STRICT) === true,
    };
    this.#policies.set(handler, policy);
    return policy;
  }

  async #load(
    context: ExecutionContext,
    request: GuardedRequest,
    access: SessionAccess | undefined,
    token: string,
    strict: boolean,
  ): Promise<boolean> {
    let session: ActiveSession<object> | null;
    try {
      session = await this.sessions.getStored(token, strict);
    } catch (error) {
      if (error instanceof SessionStoreUnavailableError) throw toHttpException(error);
      throw error;
    }
    return this.#decide(context, request, access, session);
  }

  #decide(
    context: ExecutionContext,
    request: GuardedRequest,
    access: SessionAccess | undefined,
    session: ActiveSession<object> | null,
  ): boolean {
    if (session === null) {
      if (access !== 'optional') throw this.onDenied(context);
    } else {
      this.sessions.touchLater(session);
    }
    return accept(request, session);
  }
}

function accept(request: GuardedRequest, session: ActiveSession<object> | null): true {
  request[SESSION_OF_REQUEST] = session;
  return true;
}

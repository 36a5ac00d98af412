import {
  Inject,
  Injectable,
  UnauthorizedException,
  type ExecutionContext,
  type PipeTransform,
} from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { ActiveSession } from '../core/active-session.js';
import { SessionArgumentError } from '../errors/caller.errors.js';
import { mustBeHttp } from './http-request.js';
import { HttpSessions } from './http-sessions.js';
import { answerOfLookup } from './http-errors.js';
import { checkRecentLogin, fallbackOf, readPolicy } from './route-policy.js';

/** What `@Session()` asks for; the pipe, which Nest makes with its dependencies, finds it. */
export class SessionRequest {
  // Private, so that global pipes of the app, which see it first, find nothing to walk into.
  readonly #context: ExecutionContext;
  readonly #key: string | undefined;

  constructor(context: ExecutionContext, key: string | undefined) {
    this.#context = context;
    this.#key = key;
  }

  static read(request: SessionRequest): { context: ExecutionContext; key: string | undefined } {
    return { context: request.#context, key: request.#key };
  }
}

/**
 * Finds what `@Session()` stands for. A parameter decorator has no access to providers, but its pipe is one.
 *
 * @internal
 */
@Injectable()
export class SessionPipe implements PipeTransform {
  constructor(
    @Inject(HttpSessions) private readonly http: HttpSessions,
    @Inject(Reflector) private readonly reflector: Reflector,
  ) {}

  transform(value: unknown): unknown {
    if (!(value instanceof SessionRequest)) {
      throw new SessionArgumentError(
        '@Session()',
        'was replaced by a global pipe of the app. Let that pipe leave parameters of custom decorators alone (metadata.type "custom").',
      );
    }
    const { context, key } = SessionRequest.read(value);
    const { request, response } = mustBeHttp(context, '@Session()');
    const held = this.http.of(request, response);
    const policy = readPolicy(this.reflector, context);
    const { access, strict, skipCsrf } = policy;
    const take = (session: ActiveSession<object>): unknown => {
      // The guard asks this too, where it stands; a route must not be open only because it was forgotten.
      const lacks = access === 'user' ? session.userId === null : access === 'required' && !session.isStored;
      if (held.unreachable !== undefined && (lacks || policy.recentLogin !== undefined))
        throw answerOfLookup(held.unreachable);
      if (lacks) throw new UnauthorizedException();
      checkRecentLogin(policy, session);
      if (skipCsrf) held.exemptFromOriginCheck();
      else held.checkOrigin(request);
      return key === undefined ? session : (session as ActiveSession<Record<string, unknown>>).get(key);
    };
    const session = held.obtain(strict, fallbackOf(policy, this.http.onStoreUnavailable));
    if (!(session instanceof Promise)) return take(session);
    return session.then(take, (error: unknown) => {
      throw answerOfLookup(error);
    });
  }
}

import { Inject, Injectable, type ExecutionContext, type PipeTransform } from '@nestjs/common';
import { Reflector } from '@nestjs/core';
import type { ActiveSession } from '../core/active-session.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import { exchangeOf } from './http-request.js';
import { HttpSessions } from './http-sessions.js';
import { toHttpException } from './http-errors.js';
import { readPolicy } from './route-policy.js';

/** What `@Session()` asks for; the pipe, which Nest makes with its dependencies, finds it. */
export class SessionRequest {
  constructor(
    readonly context: ExecutionContext,
    readonly key: string | undefined,
  ) {}
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
    if (!(value instanceof SessionRequest)) return value; // a pipe of the app's own has been there first
    const { context, key } = value;
    const { request, response } = exchangeOf(context);
    const held = this.http.of(request, response);
    const { strict, skipCsrf } = readPolicy(this.reflector, context);
    const take = (session: ActiveSession<object>): unknown => {
      if (!skipCsrf) this.http.checkOrigin(request, held);
      return key === undefined ? session : (session as ActiveSession<Record<string, unknown>>).get(key);
    };
    const session = held.obtain(strict);
    if (!(session instanceof Promise)) return take(session);
    return session.then(take, (error: unknown) => {
      throw error instanceof SessionStoreUnavailableError ? toHttpException(error) : error;
    });
  }
}

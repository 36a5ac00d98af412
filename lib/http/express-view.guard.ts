import type { CanActivate, ExecutionContext } from '@nestjs/common';
import type { Reflector } from '@nestjs/core';
import { exchangeOf } from './http-request.js';
import type { HttpSessions } from './http-sessions.js';
import { readPolicy } from './route-policy.js';

/**
 * With `expressView`, handlers and guards use `request.session` without anything of this package standing on their
 * route. So the check of who caused a request (option `csrf`) stands before all of them, app-wide.
 */
export class ExpressViewGuard implements CanActivate {
  constructor(
    private readonly http: HttpSessions,
    private readonly reflector: Reflector,
  ) {}

  canActivate(context: ExecutionContext): boolean {
    const exchange = exchangeOf(context);
    if (exchange === null) return true;
    const held = this.http.of(exchange.request, exchange.response);
    if (readPolicy(this.reflector, context).skipCsrf) held.exemptFromOriginCheck();
    else held.checkOrigin(exchange.request);
    return true;
  }
}

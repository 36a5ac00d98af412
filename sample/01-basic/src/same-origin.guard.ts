import { ForbiddenException, Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import type { Request } from 'express';

/**
 * Refuses requests that another site's page sends to change something. SameSite=Lax keeps the cookie out of them
 * already; this covers sign-in too, which needs no cookie, and other ports of this machine, which are the same site.
 * Clients that are no browsers send no `Origin`, and cannot be tricked by a page either.
 */
@Injectable()
export class SameOriginGuard implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const { method, headers } = context.switchToHttp().getRequest<Request>();
    const { origin } = headers;
    if (method === 'GET' || method === 'HEAD' || origin === undefined) return true;
    if (URL.canParse(origin) && new URL(origin).host === headers.host) return true;
    throw new ForbiddenException('This request comes from another site.');
  }
}

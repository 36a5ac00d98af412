import { ForbiddenException, Injectable, type CanActivate, type ExecutionContext } from '@nestjs/common';
import { sessionOf, type HttpRequest } from 'nestjs-sessionkit';

/** Who may see everybody's sessions. A real app asks for a role, which it keeps with the user. */
export const ADMIN = 'admin';

/** Comes after `SessionGuard`, which has found the session and, by `@RequireUser()`, made sure that it is somebody's. */
@Injectable()
export class AdminGuard implements CanActivate {
  canActivate(context: ExecutionContext): boolean {
    const session = sessionOf(context.switchToHttp().getRequest<HttpRequest>());
    if (session?.userId === ADMIN) return true;
    throw new ForbiddenException('This page is for administrators');
  }
}

import type { ExecutionContext } from '@nestjs/common';
import type { Reflector } from '@nestjs/core';
import { SESSION_ACCESS, SESSION_SKIP_CSRF, SESSION_STRICT } from '../session.constants.js';

/** How a route treats a request without a session. */
export type SessionAccess = 'required' | 'optional' | 'public' | 'user';

/** What the decorators of a route say. */
export interface RoutePolicy {
  readonly target: object;
  readonly access: SessionAccess | undefined;
  readonly strict: boolean;
  readonly skipCsrf: boolean;
}

const known = new WeakMap<object, RoutePolicy>();

/** Decorators never change, and looking them up costs more than a hit of the near cache. */
export function readPolicy(reflector: Reflector, context: ExecutionContext): RoutePolicy {
  const handler = context.getHandler();
  const target = context.getClass();
  const remembered = known.get(handler);
  // A handler may be inherited by several classes.
  if (remembered !== undefined && remembered.target === target) return remembered;
  const read = <V>(key: string) => reflector.getAllAndOverride<V | undefined>(key, [handler, target]);
  const policy = {
    target,
    access: read<SessionAccess>(SESSION_ACCESS),
    strict: read<boolean>(SESSION_STRICT) === true,
    skipCsrf: read<boolean>(SESSION_SKIP_CSRF) === true,
  };
  known.set(handler, policy);
  return policy;
}

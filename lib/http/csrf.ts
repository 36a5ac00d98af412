import { ForbiddenException } from '@nestjs/common';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';
import type { HttpRequest } from './http-request.js';

/** RFC 9110 section 9.2.1: methods that change nothing, so that it does no harm who causes them. */
const SAFE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE']);

export function isUnsafe({ method }: HttpRequest): boolean {
  return !SAFE.has(method ?? 'GET');
}

/**
 * Refuses a request that another site caused, by what browsers say of themselves: `Sec-Fetch-Site` (all current ones),
 * else `Origin`. Neither can be set by a page's script. Requests with neither are not from a current browser and pass,
 * unless `strict`.
 *
 * @see https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header
 *
 * @throws {ForbiddenException}
 */
export function refuseCrossSite(
  request: HttpRequest,
  { strict, allowedOrigins }: Exclude<ResolvedSessionOptions['csrf'], false>,
): void {
  const { origin, host, 'sec-fetch-site': site } = request.headers;
  if (typeof origin === 'string' && allowedOrigins.includes(origin)) return;
  if (site === 'same-origin' || site === 'none') return;
  if (site === 'same-site' && !strict) return;
  if (site === undefined) {
    if (origin === undefined && !strict) return;
    // A proxy may end TLS and change the port, but hands the host on; `host` of a framework's request trusts proxies.
    const own = (request.host ?? (typeof host === 'string' ? host : undefined))?.toLowerCase();
    if (typeof origin === 'string' && own !== undefined && hostOf(origin) === own) return;
  }
  throw new ForbiddenException('This request came from another site', {
    cause: new Error('see the option "csrf", and @SkipCsrf()'),
  });
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined; // 'null' is no origin
}

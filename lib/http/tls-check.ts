import type { AbstractHttpAdapter } from '@nestjs/core';
import { Server as TlsServer } from 'node:tls';
import { SessionOptionsError } from '../errors/caller.errors.js';
import type { ResolvedSessionOptions } from '../options/session-options.interface.js';

/**
 * `cookie.secure: 'auto'` under `NODE_ENV=production` means a Secure cookie, which browsers drop unless the site is
 * served over TLS: by the app itself, or by a proxy the app trusts. Anything else is found out by nobody being able to
 * sign in, so the boot stops.
 *
 * @throws {SessionOptionsError}
 */
export function checkTls(
  adapter: AbstractHttpAdapter | null | undefined,
  { transport, cookie }: Pick<ResolvedSessionOptions, 'transport' | 'cookie'>,
): void {
  if (!cookie.decided || !cookie.secure || !transport.includes('cookie')) return;
  if (!adapter || adapter.getHttpServer() instanceof TlsServer || trustsProxy(adapter)) return;
  throw new SessionOptionsError(
    'cookie.secure',
    "is 'auto', and in production that is a cookie for TLS, but the app neither speaks TLS nor trusts a proxy. Behind one: " +
      "app.set('trust proxy', 1) on Express, new FastifyAdapter({ trustProxy: true }) on Fastify. Otherwise set " +
      'cookie.secure to true or false yourself.',
  );
}

/** True also where it cannot be found out. */
function trustsProxy(adapter: AbstractHttpAdapter): boolean {
  const app = adapter.getInstance<Record<PropertyKey, unknown>>();
  if (adapter.getType() === 'express')
    return Boolean((app as { get?: (name: string) => unknown }).get?.('trust proxy'));
  const kept = Object.getOwnPropertySymbols(app).find((symbol) => symbol.description === 'fastify.options');
  return kept === undefined || Boolean((app[kept] as { trustProxy?: unknown }).trustProxy);
}

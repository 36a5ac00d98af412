import { parse } from 'cookie';
import type { TransportOption } from '../options/session-options.interface.js';

/** The part of a request that is read; Express, Fastify and plain `node:http` requests all have it. */
export interface RequestHeaders {
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

/** Reads the token from a request. Never from a URL: those end up in logs, histories and `Referer` headers. */
export interface TokenTransport {
  /** What the request carries, unchecked; undefined when it carries nothing. */
  read(request: RequestHeaders): string | undefined;
}

/** The transports in order; the first that finds something wins. */
export function createTransport(options: readonly TransportOption[], cookieName: string): TokenTransport {
  const readers = options.map((option) => reader(option, cookieName));
  const [only] = readers;
  if (readers.length === 1 && only !== undefined) return { read: only };
  return {
    read(request) {
      for (const read of readers) {
        const token = read(request);
        if (token !== undefined) return token;
      }
      return undefined;
    },
  };
}

function reader(option: TransportOption, cookieName: string): TokenTransport['read'] {
  if (option === 'cookie') {
    // An empty cookie is what a sign-out may leave behind: it carries nothing, and must not hide a bearer token.
    return ({ headers }) =>
      typeof headers.cookie === 'string' ? parse(headers.cookie)[cookieName] || undefined : undefined;
  }
  if (option === 'bearer') {
    return ({ headers }) =>
      typeof headers.authorization === 'string'
        ? /^Bearer +(\S+) *$/i.exec(headers.authorization)?.[1]
        : undefined;
  }
  const { header } = option;
  return ({ headers }) => {
    const value = headers[header];
    return typeof value === 'string' && value !== '' ? value : undefined;
  };
}

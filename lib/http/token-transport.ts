import type { ServerResponse } from 'node:http';
import { parseCookie, stringifySetCookie } from 'cookie';
import { MAX_TOKEN_LENGTH } from '../core/session-token.js';
import type {
  AddHeader,
  CarriedSession,
  RequestHeaders,
  TokenTransport,
} from '../core/token-transport.interface.js';
import type { ResolvedCookieOptions, TransportOption } from '../options/session-options.interface.js';
import { CookieSigner } from './cookie-signer.js';

export function createTransports(
  options: readonly TransportOption[],
  cookie: ResolvedCookieOptions,
): readonly TokenTransport[] {
  return options.map((option) => {
    if (option === 'cookie') return new CookieTransport(cookie);
    if (option === 'bearer') return BEARER;
    return 'header' in option ? headerTransport(option.header) : option;
  });
}

const BEARER: TokenTransport = {
  read: ({ headers: { authorization } }) =>
    typeof authorization === 'string' ? /^Bearer +(\S+) *$/i.exec(authorization)?.[1] : undefined,
};

/** A client without cookies finds a new token where it puts its own. */
function headerTransport(header: string): TokenTransport {
  return {
    read({ headers }) {
      const value = headers[header];
      return typeof value === 'string' && value !== '' ? value : undefined;
    },
    write: (add, session) => add(header, session.token),
  };
}

/** The session cookie. */
export class CookieTransport implements TokenTransport {
  readonly ambient = true;
  readonly renews: boolean;
  readonly #signer: CookieSigner | null;

  constructor(protected readonly options: ResolvedCookieOptions) {
    const { name, maxAgeMs, secrets } = options;
    this.renews = maxAgeMs !== undefined;
    this.#signer = 'sign' in secrets || secrets.length > 0 ? new CookieSigner(name, secrets) : null;
  }

  read({ headers: { cookie } }: RequestHeaders): string | undefined {
    const { name } = this.options;
    if (typeof cookie !== 'string') return undefined;
    // Most requests of an app carry other cookies or none; parsing them costs more than this look.
    const at = cookie.indexOf(name);
    if (at === -1) return undefined;
    // An empty cookie is what a sign-out may leave behind: it carries nothing.
    const value = valueAt(cookie, at, name) || undefined;
    if (value === undefined || this.#signer === null) return value;
    return value.length <= MAX_TOKEN_LENGTH * 2 ? this.#signer.verify(value) : undefined;
  }

  write(add: AddHeader, session: CarriedSession): void {
    const value = this.#signer === null ? session.token : this.#signer.sign(session.token);
    const { name } = this.options;
    add('Set-Cookie', stringifySetCookie({ name, value, ...this.attributes(this.lifeOf(session)) }));
  }

  clear(add: AddHeader): void {
    add('Set-Cookie', stringifySetCookie({ name: this.options.name, value: '', ...this.attributes(0) }));
  }

  /** In seconds; undefined: until the browser is closed. */
  protected lifeOf(session: CarriedSession): number | undefined {
    const { maxAge = this.options.maxAgeMs ?? null } = session;
    // Never longer than the session can live: the browser would carry a dead token.
    return maxAge === null ? undefined : Math.ceil(Math.min(maxAge, session.expiresIn ?? Infinity) / 1000);
  }

  protected attributes(maxAge: number | undefined) {
    const { path, domain, secure, httpOnly, sameSite, partitioned } = this.options;
    return {
      path,
      httpOnly,
      secure,
      sameSite,
      ...(domain !== undefined && { domain }),
      ...(partitioned && { partitioned }),
      ...(maxAge !== undefined && {
        maxAge,
        // By this process's wall clock, right or wrong: for want of Max-Age browsers compare it with the response's Date.
        expires: new Date(maxAge === 0 ? 0 : Date.now() + maxAge * 1000),
      }),
    };
  }
}

const BLANK = 32;

/**
 * What the name stands for in a Cookie header. At a glance where it is found for the first time, because of several pairs
 * with one name the first counts; the header is parsed where the name was found within another, for example, or the
 * value is not as it stands.
 */
function valueAt(header: string, at: number, name: string): string | undefined {
  const begins = at === 0 || header[at - 1] === ';' || (header[at - 1] === ' ' && header[at - 2] === ';');
  const equals = at + name.length;
  if (begins && header[equals] === '=') {
    const end = header.indexOf(';', equals);
    const value = end === -1 ? header.slice(equals + 1) : header.slice(equals + 1, end);
    // The parser takes blanks off both ends, and decodes percent signs.
    if (value.charCodeAt(0) > BLANK && value.charCodeAt(value.length - 1) > BLANK && !value.includes('%'))
      return value;
  }
  return parseCookie(header)[name];
}

/**
 * What reads and sets cookies for an app; an instance of the package `cookies` is one.
 *
 * @publicApi
 */
export interface CookieManager {
  /** @param options empty: whether the cookie has to be signed is the manager's to know, which it checks then */
  get(name: string, options?: object): string | undefined;
  /** @param attributes as those of the package `cookies`: `maxAge` in ms. Without a value, the cookie is removed */
  set(name: string, value: string | null, attributes: Record<string, unknown>): unknown;
}

/** The session cookie by way of the app's own manager, which signs as it was told. One for each response. */
export class ManagedCookieTransport extends CookieTransport {
  constructor(
    options: ResolvedCookieOptions,
    private readonly cookies: CookieManager,
    private readonly response: ServerResponse,
  ) {
    super({ ...options, secrets: [] });
  }

  override read(): string | undefined {
    // With options, though empty: Cookies with keys verifies no signature without.
    return this.cookies.get(this.options.name, {}) || undefined;
  }

  override write(add: AddHeader, session: CarriedSession): void {
    this.#set(add, session.token, this.lifeOf(session));
  }

  override clear(add: AddHeader): void {
    this.#set(add, null, 0);
  }

  #set(add: AddHeader, value: string | null, life: number | undefined): void {
    const { response } = this;
    const before = linesOf(response);
    const { maxAge, ...attributes } = this.attributes(life);
    this.cookies.set(this.options.name, value, {
      ...attributes,
      ...(maxAge !== undefined && value !== null && { maxAge: maxAge * 1000 }),
    });
    const added = linesOf(response).filter((line) => !before.includes(line));
    // Ours are added with the others, after the session is saved, whatever the handler gives to writeHead().
    if (before.length === 0) response.removeHeader('Set-Cookie');
    else response.setHeader('Set-Cookie', before);
    for (const line of added) add('Set-Cookie', line);
  }
}

function linesOf(response: ServerResponse): readonly string[] {
  const lines = response.getHeader('Set-Cookie');
  // A copy: managers add to the very array that is set.
  return lines === undefined ? [] : Array.isArray(lines) ? [...lines] : [String(lines)];
}

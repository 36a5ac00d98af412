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

  constructor(private readonly options: ResolvedCookieOptions) {
    this.renews = options.maxAgeMs !== undefined;
    this.#signer = options.secrets.length === 0 ? null : new CookieSigner(options.name, options.secrets);
  }

  read({ headers: { cookie } }: RequestHeaders): string | undefined {
    const { name } = this.options;
    // Most requests of an app carry other cookies or none; parsing them costs more than this look.
    if (typeof cookie !== 'string' || !cookie.includes(name)) return undefined;
    // An empty cookie is what a sign-out may leave behind: it carries nothing.
    const value = parseCookie(cookie)[name] || undefined;
    if (value === undefined || this.#signer === null) return value;
    return value.length <= MAX_TOKEN_LENGTH * 2 ? this.#signer.verify(value) : undefined;
  }

  write(add: AddHeader, session: CarriedSession): void {
    const { maxAge = this.options.maxAgeMs ?? null } = session;
    // Never longer than the session can live: the browser would carry a dead token.
    const life = maxAge === null ? undefined : Math.min(maxAge, session.expiresIn ?? Infinity);
    const value = this.#signer === null ? session.token : this.#signer.sign(session.token);
    add('Set-Cookie', this.#line(value, life === undefined ? undefined : Math.ceil(life / 1000)));
  }

  clear(add: AddHeader): void {
    add('Set-Cookie', this.#line('', 0));
  }

  #line(value: string, maxAgeSeconds: number | undefined): string {
    const { name, path, domain, secure, httpOnly, sameSite, partitioned } = this.options;
    return stringifySetCookie({
      name,
      value,
      path,
      httpOnly,
      secure,
      sameSite,
      ...(domain !== undefined && { domain }),
      ...(partitioned && { partitioned }),
      ...(maxAgeSeconds !== undefined && {
        maxAge: maxAgeSeconds,
        expires: new Date(maxAgeSeconds === 0 ? 0 : Date.now() + maxAgeSeconds * 1000),
      }),
    });
  }
}

import { createHmac, timingSafeEqual } from 'node:crypto';
import { parseCookie, stringifySetCookie, type SerializeOptions } from 'cookie';
import type { AddHeader, CarriedSession, RequestHeaders, TokenTransport } from 'nestjs-sessionkit';

/** The cookie of express-session: `s:<sid>.<signature>`. Reads those that browsers have, and writes new ones alike. */
export class ExpressCookieTransport implements TokenTransport {
  readonly ambient = true;

  /** @param secrets as those of express-session: the first signs, all verify */
  constructor(
    private readonly secrets: readonly [string, ...string[]],
    private readonly name = 'connect.sid',
    private readonly attributes: SerializeOptions = { path: '/', httpOnly: true, sameSite: 'lax' },
  ) {}

  read({ headers: { cookie } }: RequestHeaders): string | undefined {
    const value = typeof cookie === 'string' ? parseCookie(cookie)[this.name] : undefined;
    if (value === undefined || value.length > 256 || !value.startsWith('s:')) return undefined;
    const dot = value.lastIndexOf('.');
    if (dot < 3) return undefined;
    const sid = value.slice(2, dot);
    const given = Buffer.from(value.slice(dot + 1));
    const isSigned = this.secrets.some((secret) => {
      const right = Buffer.from(signature(sid, secret));
      return right.length === given.length && timingSafeEqual(right, given);
    });
    return isSigned ? sid : undefined;
  }

  write(add: AddHeader, { token }: CarriedSession): void {
    const value = `s:${token}.${signature(token, this.secrets[0])}`;
    add('Set-Cookie', stringifySetCookie({ name: this.name, value, ...this.attributes }));
  }

  clear(add: AddHeader): void {
    add('Set-Cookie', stringifySetCookie({ name: this.name, value: '', ...this.attributes, maxAge: 0 }));
  }
}

/** As the package `cookie-signature` makes it. */
function signature(sid: string, secret: string): string {
  return createHmac('sha256', secret).update(sid).digest('base64').replace(/=+$/, '');
}

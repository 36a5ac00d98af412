import { createHmac, timingSafeEqual } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import type { CookieKeys } from '../options/session-options.interface.js';

/** Cookies whose signature was right lately, so that a browser's next request costs a lookup and not an HMAC. */
const REMEMBERED = 2_048;

/**
 * Signs cookie values, so that forged ones are refused without asking the store. The cookie reads `<value>.<signature>`;
 * its name is signed too, so that a signature cannot be carried over to another cookie of the app.
 */
export class CookieSigner {
  /** Not for keys of the app's own: a Keygrip's list may lose one at any time. */
  readonly #known: LRUCache<string, string> | null;
  readonly #keys: CookieKeys;

  constructor(
    private readonly name: string,
    keys: readonly string[] | CookieKeys,
  ) {
    const isOwn = 'sign' in keys;
    this.#keys = isOwn ? keys : new HmacKeys(keys);
    this.#known = isOwn ? null : new LRUCache({ max: REMEMBERED });
  }

  sign(value: string): string {
    return `${value}.${this.#keys.sign(`${this.name}=${value}`)}`;
  }

  /** The value that was signed; undefined when the signature is wrong or missing. */
  verify(signed: string): string | undefined {
    const known = this.#known?.get(signed);
    if (known !== undefined) return known;
    const dot = signed.lastIndexOf('.');
    if (dot < 1) return undefined;
    const value = signed.slice(0, dot);
    if (!this.#keys.verify(`${this.name}=${value}`, signed.slice(dot + 1))) return undefined;
    this.#known?.set(signed, value);
    return value;
  }
}

/** HMAC-SHA-256. The first secret signs, all verify: put a new one in front, and drop the old when its cookies are gone. */
class HmacKeys implements CookieKeys {
  constructor(private readonly secrets: readonly string[]) {}

  sign(data: string): string {
    return hmac(this.secrets[0]!, data).toString('base64url');
  }

  verify(data: string, signature: string): boolean {
    const given = Buffer.from(signature, 'base64url');
    if (signature.length !== 43 || given.length !== 32) return false;
    return this.secrets.some((secret) => timingSafeEqual(hmac(secret, data), given));
  }
}

function hmac(secret: string, data: string): Buffer {
  return createHmac('sha256', secret).update(data).digest();
}

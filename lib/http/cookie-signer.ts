import { createHmac, timingSafeEqual } from 'node:crypto';
import { LRUCache } from 'lru-cache';

/** Cookies whose signature was right lately, so that a browser's next request costs a lookup and not an HMAC. */
const REMEMBERED = 2_048;
/** base64url of HMAC-SHA-256, and the dot before it. */
const SIGNATURE_LENGTH = 44;

/**
 * Signs cookie values, so that forged ones are refused without asking the store. The first secret signs, all verify:
 * put a new one in front, and drop the old one when its cookies have run out.
 */
export class CookieSigner {
  readonly #known = new LRUCache<string, string>({ max: REMEMBERED });

  constructor(
    private readonly name: string,
    private readonly secrets: readonly string[],
  ) {}

  sign(value: string): string {
    return `${value}.${this.#signature(value, this.secrets[0]!).toString('base64url')}`;
  }

  /** The value that was signed; undefined when the signature is wrong or missing. */
  verify(signed: string): string | undefined {
    const known = this.#known.get(signed);
    if (known !== undefined) return known;
    const at = signed.length - SIGNATURE_LENGTH;
    if (at < 1 || signed[at] !== '.') return undefined;
    const value = signed.slice(0, at);
    const given = Buffer.from(signed.slice(at + 1), 'base64url');
    if (given.length !== 32) return undefined;
    const right = this.secrets.some((secret) => timingSafeEqual(this.#signature(value, secret), given));
    if (!right) return undefined;
    this.#known.set(signed, value);
    return value;
  }

  /** The cookie's name is signed too, so that a signature cannot be carried over to another cookie of the app. */
  #signature(value: string, secret: string): Buffer {
    return createHmac('sha256', secret).update(`${this.name}=${value}`).digest();
  }
}

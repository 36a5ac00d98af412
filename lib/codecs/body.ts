/** What a codec wrote, text or bytes, as bytes; and back. The first byte of `kind` and bytes tells which. */
export const TEXT = 0;
export const BYTES = 1;

export interface Body {
  readonly kind: typeof TEXT | typeof BYTES;
  readonly bytes: Uint8Array;
}

export function bodyOf(encoded: string | Uint8Array): Body {
  return typeof encoded === 'string'
    ? { kind: TEXT, bytes: Buffer.from(encoded) }
    : { kind: BYTES, bytes: encoded };
}

/** @throws for a kind that there is not */
export function encodedOf(kind: number | undefined, bytes: Buffer): string | Uint8Array {
  if (kind === TEXT) return bytes.toString();
  if (kind === BYTES) return bytes;
  throw new TypeError('neither text nor bytes');
}

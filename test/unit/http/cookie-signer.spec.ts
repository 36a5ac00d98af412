import { createHmac } from 'node:crypto';
import fc from 'fast-check';
import Keygrip from 'keygrip';
import { describe, expect, it } from 'vitest';
import { CookieSigner } from '../../../lib/http/cookie-signer.js';

const OLD = 'an old secret of thirty-two letters';
const NEW = 'a new secret of thirty-two letters.';

describe('CookieSigner', () => {
  it('verifies what it signed, the first time and from memory', () => {
    const signer = new CookieSigner('sid', [NEW]);
    const signed = signer.sign('a-token');
    expect(signed).toMatch(/^a-token\.[\w-]{43}$/);
    for (let round = 0; round < 3; round++) expect(signer.verify(signed)).toBe('a-token');
    expect(new CookieSigner('sid', [NEW]).verify(signed), 'another process').toBe('a-token');
  });

  it('signs with HMAC-SHA-256 over name and value', () => {
    const expected = createHmac('sha256', NEW).update('sid=a-token').digest('base64url');
    expect(new CookieSigner('sid', [NEW]).sign('a-token')).toBe(`a-token.${expected}`);
  });

  it('signs with the first secret, and verifies with all', () => {
    const before = new CookieSigner('sid', [OLD]);
    const between = new CookieSigner('sid', [NEW, OLD]);
    const after = new CookieSigner('sid', [NEW]);
    expect(between.verify(before.sign('a'))).toBe('a');
    expect(after.verify(between.sign('a'))).toBe('a');
    expect(before.verify(between.sign('a'))).toBeUndefined();
    expect(after.verify(before.sign('a'))).toBeUndefined();
  });

  it('refuses the signature of another cookie of the same app', () => {
    const other = new CookieSigner('theme', [NEW]).sign('a-token');
    expect(new CookieSigner('sid', [NEW]).verify(other)).toBeUndefined();
  });

  it('does not take "si" with value "d=x" for "sid" with value "=x"', () => {
    const [, signature = ''] = new CookieSigner('a', [NEW]).sign('b=c').split('.');
    expect(new CookieSigner('a=b', [NEW]).verify(`c.${signature}`)).toBe('c'); // '=' is in no cookie's name
    expect(new CookieSigner('ab', [NEW]).verify(`=c.${signature}`)).toBeUndefined();
  });

  it('keeps dots of the value', () => {
    const signer = new CookieSigner('sid', [NEW]);
    expect(signer.verify(signer.sign('a.b.c'))).toBe('a.b.c');
  });

  it.each<[string, (signed: string) => string]>([
    ['nothing', () => ''],
    ['no signature', () => 'a-token'],
    ['an empty signature', () => 'a-token.'],
    ['only a signature', (signed) => signed.slice(signed.indexOf('.'))],
    ['a signature cut short', (signed) => signed.slice(0, -1)],
    ['a signature and one character more', (signed) => `${signed}A`],
    ['another value', (signed) => `b${signed.slice(1)}`],
    ['a value cut short', (signed) => signed.slice(1)],
    ['a signature of characters that are none of base64url', () => `a-token.${'!'.repeat(43)}`],
    ['a signature with a blank', (signed) => `${signed.slice(0, -1)} `],
    ['a signature of zeros', () => `a-token.${'A'.repeat(43)}`],
    ['a signature of another length', (signed) => `${signed.slice(0, 8)}${'A'.repeat(27)}`],
    ['a signature in hex', () => `a-token.${createHmac('sha256', NEW).update('sid=a-token').digest('hex')}`],
    [
      'a signature in the other alphabet of base64, padded',
      () => `a-token.${createHmac('sha256', NEW).update('sid=a-token').digest('base64')}`,
    ],
    ['another separator', (signed) => signed.replace('.', ':')],
  ])('refuses %s', (_what, change) => {
    const signer = new CookieSigner('sid', [NEW, OLD]);
    expect(signer.verify(change(signer.sign('a-token')))).toBeUndefined();
  });

  it('refuses every signed value in which one character was changed', () => {
    const signer = new CookieSigner('sid', [NEW]);
    const signed = signer.sign('a-token');
    // The last character of 43 holds two bits that stand for nothing.
    for (let at = 0; at < signed.length - 1; at++) {
      const other = signed[at] === 'x' ? 'y' : 'x';
      expect(signer.verify(signed.slice(0, at) + other + signed.slice(at + 1)), `at ${at}`).toBeUndefined();
    }
  });

  it('refuses anything it has not signed', () => {
    const signer = new CookieSigner('sid', [NEW, OLD]);
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.string({ unit: 'binary' }), fc.base64String()), (text) => {
        expect(signer.verify(text)).toBeUndefined();
        expect(signer.verify(`${text}.${'A'.repeat(43)}`)).toBeUndefined();
      }),
    );
  });

  it('verifies what it signed, whatever it is', () => {
    const signer = new CookieSigner('sid', [NEW]);
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), (text) => {
        expect(signer.verify(signer.sign(text))).toBe(text);
      }),
    );
  });

  it('remembers a bounded number of signed values, and no forged ones', () => {
    const signer = new CookieSigner('sid', [NEW]);
    const first = signer.sign('first');
    expect(signer.verify(first)).toBe('first');
    for (let index = 0; index < 3_000; index++) signer.verify(signer.sign(`value ${index}`));
    expect(signer.verify(first), 'long forgotten, and verified anew').toBe('first');
    expect(signer.verify(`${first.slice(0, -2)}xx`)).toBeUndefined();
  });
});

describe('CookieSigner with a Keygrip', () => {
  const keygrip = new Keygrip([NEW, OLD]);

  it('signs and verifies by it, name and value together', () => {
    const signer = new CookieSigner('sid', keygrip);
    const signed = signer.sign('a-token');
    expect(signed).toBe(`a-token.${keygrip.sign('sid=a-token')}`);
    for (let round = 0; round < 3; round++) expect(signer.verify(signed)).toBe('a-token');
    expect(new CookieSigner('theme', keygrip).verify(signed)).toBeUndefined();
  });

  it('takes what its older keys have signed, and nothing of others', () => {
    const signer = new CookieSigner('sid', keygrip);
    expect(signer.verify(new CookieSigner('sid', new Keygrip([OLD])).sign('a'))).toBe('a');
    expect(signer.verify(new CookieSigner('sid', new Keygrip(['another'])).sign('a'))).toBeUndefined();
    // The same keys as strings sign by SHA-256; these are not to be mixed up.
    expect(signer.verify(new CookieSigner('sid', [NEW]).sign('a'))).toBeUndefined();
  });

  it('a key that its list has lost verifies nothing from then on', () => {
    const keys = [NEW, OLD];
    const signer = new CookieSigner('sid', new Keygrip(keys));
    const signed = new CookieSigner('sid', new Keygrip([OLD])).sign('a');
    expect(signer.verify(signed)).toBe('a');
    keys.pop();
    expect(signer.verify(signed)).toBeUndefined();
  });

  it.each([
    ['sha256', 'base64'],
    ['sha512', 'hex'],
    ['sha1', 'base64url'],
  ])('of %s in %s', (algorithm, encoding) => {
    const signer = new CookieSigner('sid', new Keygrip([NEW], algorithm, encoding));
    const signed = signer.sign('a.token');
    expect(new CookieSigner('sid', new Keygrip([NEW], algorithm, encoding)).verify(signed)).toBe('a.token');
    expect(signer.verify(`${signed}0`)).toBeUndefined();
  });

  it.each<[string, (signature: string) => string]>([
    ['none', () => ''],
    ['cut short', (signature) => signature.slice(0, -1)],
    ['longer', (signature) => `${signature}A`],
    ['twice', (signature) => signature + signature],
    ['of letters outside its alphabet', (signature) => 'é'.repeat(signature.length)],
    ['in the other alphabet of base64', (signature) => `+/${signature.slice(2)}`],
    ['in other case', (signature) => signature.toLowerCase()],
    ['padded', (signature) => `${signature}=`],
    ['of another length by far', () => 'A'.repeat(4_000)],
  ])('refuses a signature: %s', (_what, change) => {
    const signer = new CookieSigner('sid', keygrip);
    expect(signer.verify(`a-token.${change(keygrip.sign('sid=a-token'))}`)).toBeUndefined();
  });

  it('asks whatever has sign and verify, with the bare signature', () => {
    const asked: [string, string][] = [];
    const signer = new CookieSigner('sid', {
      sign: () => 'signature',
      verify: (data, signature) => asked.push([data, signature]) > 0 && signature === 'signature',
    });
    expect(signer.sign('a')).toBe('a.signature');
    expect([signer.verify('a.b.signature'), signer.verify('a.forged')]).toEqual(['a.b', undefined]);
    expect(asked).toEqual([
      ['sid=a.b', 'signature'],
      ['sid=a', 'forged'],
    ]);
  });
});

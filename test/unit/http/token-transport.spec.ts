import { parseCookie } from 'cookie';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CookieTransport } from '../../../lib/http/token-transport.js';
import type { ResolvedCookieOptions } from '../../../lib/options/session-options.interface.js';

const transport = new CookieTransport({ name: 'sid', secrets: [] } as unknown as ResolvedCookieOptions);
const read = (cookie: string) => transport.read({ headers: { cookie } });

describe('CookieTransport.read()', () => {
  it('finds what the parser of cookies finds, whatever the header is', () => {
    const piece = fc.constantFrom(
      'sid',
      'x',
      '=',
      ';',
      ' ',
      '\t',
      '%41',
      '%',
      '"',
      'a1-_',
      'sid=',
      '; sid=b',
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const header = pieces.join('');
        expect(read(header)).toBe(parseCookie(header).sid || undefined);
      }),
      { numRuns: 5_000 },
    );
  });

  it.each<[string, string | undefined]>([
    ['sid=abc', 'abc'],
    ['a=1; sid=abc; b=2', 'abc'],
    ['a=1;sid=abc', 'abc'],
    ['sid=abc; sid=other', 'abc'],
    ['my-sid=other; sid=abc', 'abc'],
    ['a=sid; sid=abc', 'abc'],
    ['sid= abc ;', 'abc'],
    ['sid =abc', 'abc'],
    ['sid=a%2Bc', 'a+c'],
    ['sid=', undefined],
    ['sid', undefined],
    ['a=1', undefined],
  ])('%j is %j', (header, token) => {
    expect(read(header)).toBe(token);
  });
});

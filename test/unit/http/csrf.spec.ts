import { ForbiddenException } from '@nestjs/common';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { csrfTokenOf, isCsrfTokenOf } from '../../../lib/core/csrf-token.js';
import { isUnsafe, refuseCrossSite } from '../../../lib/http/csrf.js';

type Headers = Record<string, string | string[] | undefined>;

const LAX = { strict: false, allowedOrigins: [] };

function passes(
  headers: Headers,
  options: Partial<Parameters<typeof refuseCrossSite>[1]> = {},
  host?: string,
) {
  try {
    refuseCrossSite({ headers, ...(host !== undefined && { host }) }, { ...LAX, ...options });
    return true;
  } catch (error) {
    expect(error).toBeInstanceOf(ForbiddenException);
    return false;
  }
}

describe('isUnsafe()', () => {
  it.each(['GET', 'HEAD', 'OPTIONS', 'TRACE', undefined])('%s: no', (method) => {
    expect(isUnsafe({ headers: {}, method })).toBe(false);
  });

  it.each(['POST', 'PUT', 'PATCH', 'DELETE', 'QUERY', 'PROPFIND', 'get', ''])('%s: yes', (method) => {
    expect(isUnsafe({ headers: {}, method })).toBe(true);
  });
});

describe('refuseCrossSite()', () => {
  // [Sec-Fetch-Site, Origin, lets through, lets through if strict]
  it.each<[site: string | undefined, origin: string | undefined, lax: boolean, strict: boolean]>([
    [undefined, undefined, true, false],
    [undefined, 'https://app.test', true, true],
    [undefined, 'http://app.test', true, true], // a proxy may end TLS
    [undefined, 'https://app.test:8443', false, false],
    [undefined, 'https://evil.test', false, false],
    [undefined, 'https://app.test.evil.test', false, false],
    [undefined, 'https://evilapp.test', false, false],
    [undefined, 'null', false, false],
    [undefined, '', false, false],
    [undefined, 'app.test', false, false],
    [undefined, 'https://evil.test https://app.test', false, false],
    ['same-origin', undefined, true, true],
    ['same-origin', 'https://evil.test', true, true], // a script can set neither
    ['none', undefined, true, true],
    ['same-site', undefined, true, false],
    ['same-site', 'https://other.app.test', true, false],
    ['cross-site', undefined, false, false],
    ['cross-site', 'https://app.test', false, false],
    ['cross-site', 'https://evil.test', false, false],
    ['', undefined, false, false],
    ['SAME-ORIGIN', undefined, false, false],
    ['same-origin, cross-site', undefined, false, false],
  ])('Sec-Fetch-Site %j, Origin %j', (site, origin, lax, strict) => {
    const headers = { host: 'app.test', 'sec-fetch-site': site, origin };
    expect(passes(headers)).toBe(lax);
    expect(passes(headers, { strict: true })).toBe(strict);
  });

  it('lets allowed origins through, whatever Sec-Fetch-Site says, and only exactly those', () => {
    const options = { allowedOrigins: ['https://spa.test'] };
    for (const strict of [false, true]) {
      for (const site of [undefined, 'cross-site', 'same-site'])
        expect(
          passes(
            { host: 'app.test', origin: 'https://spa.test', 'sec-fetch-site': site },
            { ...options, strict },
          ),
        ).toBe(true);
      for (const origin of [
        'http://spa.test',
        'https://spa.test:444',
        'https://SPA.test',
        'https://spa.test/',
        'https://x.spa.test',
      ])
        expect(
          passes({ host: 'app.test', origin, 'sec-fetch-site': 'cross-site' }, { ...options, strict }),
          origin,
        ).toBe(false);
    }
  });

  it('compares the origin with the host that the framework trusts', () => {
    const headers = { host: 'internal:3000', origin: 'https://app.test' };
    expect(passes(headers)).toBe(false);
    expect(passes(headers, {}, 'app.test')).toBe(true);
    expect(passes({ ...headers, origin: 'http://internal:3000' }, {}, 'app.test')).toBe(false);
  });

  it('compares hosts with their ports, but for the default one of the scheme', () => {
    expect(passes({ host: 'app.test:3000', origin: 'http://app.test:3000' })).toBe(true);
    expect(passes({ host: 'app.test:3000', origin: 'http://app.test:3001' })).toBe(false);
    expect(passes({ host: 'app.test', origin: 'https://app.test:443' })).toBe(true);
    expect(passes({ host: '[::1]:3000', origin: 'http://[::1]:3000' })).toBe(true);
  });

  it('takes host names in any case: clients send them as typed', () => {
    expect(passes({ host: 'App.Test', origin: 'https://app.test' })).toBe(true);
  });

  it('refuses a request without a host that has an origin', () => {
    expect(passes({ origin: 'https://app.test' })).toBe(false);
    expect(passes({ origin: 'null' })).toBe(false);
  });

  it('refuses headers that came twice, as arrays', () => {
    expect(passes({ host: 'app.test', 'sec-fetch-site': ['same-origin', 'cross-site'] })).toBe(false);
    expect(passes({ host: 'app.test', origin: ['https://app.test', 'https://evil.test'] })).toBe(false);
  });

  it('never throws anything but 403, whatever the headers are, and lets no foreign origin through', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.webUrl(), fc.domain()), fc.string(), (origin, host) => {
        if (origin === host) return;
        passes({ host, origin });
        expect(passes({ host: 'app.test', origin: `https://${origin}.test` })).toBe(`${origin}` === 'app');
      }),
    );
  });

  it('says what to do in the description, and nothing of the request', () => {
    try {
      refuseCrossSite({ headers: { host: 'app.test', origin: 'https://evil.test' } }, LAX);
      expect.unreachable();
    } catch (error) {
      expect((error as ForbiddenException).getStatus()).toBe(403);
      expect(JSON.stringify((error as ForbiddenException).getResponse())).not.toMatch(/evil|app\.test/);
    }
  });
});

describe('csrfTokenOf()', () => {
  const [one, other] = ['A'.repeat(44), 'B'.repeat(44)];

  it('is always the same for a session, another for another, and shows nothing of its token', () => {
    expect(csrfTokenOf(one)).toMatch(/^[\w-]{43}$/);
    expect(csrfTokenOf(one)).toBe(csrfTokenOf(one));
    expect(csrfTokenOf(one)).not.toBe(csrfTokenOf(other));
    expect(csrfTokenOf(one)).not.toContain('AAAA');
  });

  it('is recognized; nothing else is, whatever its type and length', () => {
    const right = csrfTokenOf(one);
    expect(isCsrfTokenOf(one, right)).toBe(true);
    for (const wrong of [
      csrfTokenOf(other),
      right.slice(0, -1),
      `${right}A`,
      ` ${right}`,
      '',
      'x'.repeat(43),
      '\u4e2d'.repeat(43),
      undefined,
      null,
      43,
      [right],
      { length: 43 },
      Buffer.from(right),
    ])
      expect(isCsrfTokenOf(one, wrong), JSON.stringify(wrong)).toBe(false);
  });
});

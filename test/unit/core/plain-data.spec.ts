import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { defaultCodec } from '../../../lib/core/codec.js';
import { clonePlain, isSamePlain } from '../../../lib/core/plain-data.js';
import type { Data } from '../harness.js';

/** What JSON.parse can make, keys such as `__proto__` among it. */
const PLAIN = fc.jsonValue().map((value) => JSON.parse(`{"value":${JSON.stringify(value)}}`) as Data);

describe('clonePlain', () => {
  it('makes an equal copy that shares nothing', () => {
    fc.assert(
      fc.property(PLAIN, (plain) => {
        const before = JSON.stringify(plain);
        const copy = clonePlain(plain);
        expect(copy).toEqual(plain);
        spoil(copy);
        expect(JSON.stringify(plain)).toBe(before);
      }),
    );
  });

  it('keeps a key named __proto__ what it is: data', () => {
    const copy = clonePlain(JSON.parse('{"__proto__":{"admin":true}}') as Record<string, unknown>);
    expect(Object.getPrototypeOf(copy)).toBe(Object.prototype);
    expect(copy.admin).toBeUndefined();
    expect(JSON.stringify(copy)).toBe('{"__proto__":{"admin":true}}');
  });
});

describe('isSamePlain', () => {
  it('is true for a copy, and never where the codec would write something else', () => {
    fc.assert(
      fc.property(PLAIN, fc.anything(), (plain, other) => {
        expect(isSamePlain(clonePlain(plain), plain)).toBe(true);
        const changed = { ...clonePlain(plain), value: other };
        if (isSamePlain(changed, plain)) expect(encoded(changed)).toBe(defaultCodec.encode(plain));
      }),
      { numRuns: 2_000 },
    );
  });

  it.each<[string, Data]>([
    ['a field more', { a: [1, { b: null }], c: 1 }],
    ['a field less', {}],
    ['an item more', { a: [1, { b: null }, 2] }],
    ['a nested change', { a: [1, { b: 0 }] }],
    ['null for an object', { a: [1, null] }],
    ['undefined for null', { a: [1, { b: undefined }] }],
    ['an object for an array', { a: { 0: 1, 1: { b: null } } }],
    ['an instance of a class', { a: [1, Object.assign(new (class Some {})(), { b: null })] }],
    ['a symbol beside', { a: [1, { b: null }], [Symbol('s')]: 1 }],
    ['a Map', { a: [1, new Map([['b', null]])] }],
    ['a field that is not enumerable', Object.defineProperty({}, 'a', { value: [1, { b: null }] })],
    ['the same and another field beside', Object.defineProperty({ c: 1 }, 'a', { value: [1, { b: null }] })],
    [
      'a field further in that is not enumerable',
      { a: [1, Object.defineProperty({}, 'b', { value: null, enumerable: false })] },
    ],
  ])('is false for %s', (_what, value) => {
    expect(isSamePlain(value, { a: [1, { b: null }] })).toBe(false);
  });

  it('counts the order of keys further in, and not that of the fields', () => {
    const plain = { seen: { a: 1, b: 2 }, views: 1 };
    expect(isSamePlain({ views: 1, seen: { a: 1, b: 2 } }, plain)).toBe(true);
    expect(isSamePlain({ seen: { b: 2, a: 1 }, views: 1 }, plain)).toBe(false);
    expect(isSamePlain({ list: [{ b: 2, a: 1 }] }, { list: [{ a: 1, b: 2 }] })).toBe(false);
  });

  it('tells 0 from -0, whose text differs', () => {
    expect(isSamePlain({ a: -0 }, { a: 0 })).toBe(false);
  });

  it('ends on data that holds itself', () => {
    const loop: { a: unknown[] } = { a: [1] };
    loop.a.push(loop);
    expect(isSamePlain(loop, { a: [1, { a: [1, {}] }] })).toBe(false);
  });
});

function encoded(data: object): string | undefined {
  try {
    return defaultCodec.encode(data);
  } catch {
    return undefined;
  }
}

/** Changes every part of a value. */
function spoil(value: unknown): void {
  if (typeof value !== 'object' || value === null) return;
  for (const item of Object.values(value)) spoil(item);
  if (Array.isArray(value)) value.push('spoiled');
  else Object.assign(value, { spoiled: true });
}

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { defaultCodec } from '../../../lib/core/codec.js';
import { SessionDataError } from '../../../lib/errors/caller.errors.js';
import { key, richData } from '../rich-data.js';

const encode = (data: object) => defaultCodec.encode(data);
const decode = (text: string) => defaultCodec.decode(text);
const roundTrip = (data: object) => decode(encode(data));

function refusal(data: object): SessionDataError {
  try {
    encode(data);
  } catch (error) {
    expect(error).toBeInstanceOf(SessionDataError);
    return error as SessionDataError;
  }
  throw new Error('the data was accepted');
}

describe('defaultCodec: what comes back', () => {
  it('decode(encode(data)) is data: Date, Buffer, Uint8Array, Map, Set, bigint, undefined, NaN, -0, nested', () => {
    fc.assert(
      fc.property(richData, (data) => {
        expect(roundTrip(data)).toStrictEqual(data);
      }),
      { numRuns: 1_000 },
    );
  });

  it.each<[string, object]>([
    ['Date', { at: new Date(0) }],
    ['invalid Date', { at: new Date(Number.NaN) }],
    ['Buffer', { bytes: Buffer.from([0, 255, 128]) }],
    ['empty Buffer', { bytes: Buffer.alloc(0) }],
    ['Uint8Array', { bytes: new Uint8Array([1, 2, 3]) }],
    ['wider typed arrays', { a: new Float64Array([1.5]), b: new Uint16Array([1, 2, 3]).subarray(1) }],
    [
      'two views of one buffer',
      { a: Uint8Array.of(1, 2).subarray(0, 1), b: Uint8Array.of(1, 2).subarray(1) },
    ],
    ['empty Uint8Array', { bytes: new Uint8Array(0) }],
    ['Map with objects as keys', { map: new Map([[{ a: 1 }, new Set([1n])]]) }],
    ['Set', { set: new Set(['a', Number.NaN]) }],
    ['bigint', { big: 2n ** 200n }],
    ['undefined', { gone: undefined }],
    ['NaN', { no: Number.NaN }],
    ['-0', { zero: -0 }],
    ['array with holes', { list: [1, , 3] }], // oxlint-disable-line no-sparse-arrays
    ['regular expression', { pattern: /a\/b/giu }],
    ['URL', { url: new URL('https://example.org/?q=ä#x') }],
    ['lone surrogates beside a Date', { text: '\ud800 and \udfff', at: new Date(1) }],
    ['lone surrogates', { text: '\ud800', '\udc00': 1 }],
    ['line separators and NUL', { text: '\u2028\u2029\0\n' }],
    ['empty key', { '': { '': 1 } }],
    ['numbers as keys', { 1: 'a', '-1': 'b' }],
    ['nothing', {}],
  ])('%s comes back the same', (_, data) => {
    const back = roundTrip(data);
    expect(back).toStrictEqual(data);
    for (const [field, value] of Object.entries(data))
      expect(Object.getPrototypeOf(Object(back[field]))).toBe(Object.getPrototypeOf(Object(value)));
    // Stores keep UTF-8: what is not well-formed there would come back as question marks.
    const text = encode(data);
    expect(Buffer.from(text, 'utf8').toString('utf8')).toBe(text);
  });

  it('cycles and shared references come back as such', () => {
    const loop: Record<string, unknown> = { name: 'loop' };
    loop.self = loop;
    const shared = { n: 1 };
    const back = roundTrip({ loop, a: shared, b: shared, at: new Date(0) });
    const found = back.loop as Record<string, unknown>;
    expect(found.self).toBe(found);
    expect(back.a).toBe(back.b);
  });

  it('JSON nested 200 levels deep comes back', () => {
    let deep: object = { end: true };
    for (let level = 0; level < 200; level++) deep = { deep };
    expect(roundTrip(deep)).toStrictEqual(deep);
  });

  it('every decode() makes objects of its own', () => {
    const text = encode({ list: [{ n: 1 }] });
    (decode(text).list as object[]).push({});
    expect(decode(text)).toEqual({ list: [{ n: 1 }] });
  });

  it('a view of a larger buffer is stored without the rest of it', () => {
    const pool = Buffer.from('public|SECRET-OF-ANOTHER-REQUEST');
    const view = new Uint8Array(pool.buffer, pool.byteOffset, 6);
    for (const bytes of [view, pool.subarray(0, 6), new DataView(pool.buffer, pool.byteOffset, 6)]) {
      const text = encode({ bytes });
      expect(text.length).toBeLessThan(200);
      const back = decode(text).bytes as Uint8Array;
      expect(back.constructor).toBe(bytes.constructor);
      expect(Buffer.from(back.buffer, back.byteOffset, back.byteLength).toString()).toBe('public');
    }
  });
});

describe('defaultCodec: the text', () => {
  it('plain JSON stays plain JSON text, readable in redis-cli', () => {
    const data = { user: 'Ann ä 😀', cart: [{ id: 1, price: 9.5 }], empty: null, yes: true };
    expect(encode(data)).toBe(JSON.stringify(data));
  });

  it('encode() of any JSON object is exactly JSON.stringify of it', () => {
    const json = fc.dictionary(key, fc.jsonValue(), { noNullPrototype: true });
    fc.assert(
      fc.property(json, (data) => {
        fc.pre(!JSON.stringify(data, (_, v: unknown) => (Object.is(v, -0) ? '§-0' : v)).includes('§-0'));
        expect(encode(data)).toBe(JSON.stringify(data));
      }),
    );
  });

  it('keys named __proto__ stay data and change no prototype', () => {
    const data = JSON.parse('{"__proto__":{"admin":true},"a":{"__proto__":1}}') as Record<string, unknown>;
    const back = roundTrip(data);
    expect(Object.keys(back)).toEqual(['__proto__', 'a']);
    expect(Object.getPrototypeOf(back)).toBe(Object.prototype);
    expect((back as { admin?: boolean }).admin).toBeUndefined();
    expect(({} as { admin?: boolean }).admin).toBeUndefined();
  });

  it('a key named __proto__ beside a Date is refused, not dropped', () => {
    const data = JSON.parse('{"__proto__":1}') as Record<string, unknown>;
    data.at = new Date(0);
    expect(refusal(data).message).toMatch(/__proto__.*Rename the key/);
  });

  it.each([
    '',
    '5',
    'null',
    '"text"',
    '[',
    '[]',
    '[[]]',
    '{"a":',
    '[1,2]x',
    '[{"a":99}]',
    '["Foo",1]',
    'hello',
  ])('decode() of %j throws', (text) => {
    expect(() => decode(text)).toThrow();
  });

  it('decode() of any text returns an object or throws, and never changes a prototype', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json(),
          fc.json().map((text) => `[${text}]`),
        ),
        (text) => {
          let value: unknown = {};
          try {
            value = decode(text);
          } catch {
            // refused: as good
          }
          expect(typeof value === 'object' && value !== null && !Array.isArray(value)).toBe(true);
          expect(Object.keys(Object.prototype)).toEqual([]);
        },
      ),
    );
  });
});

class Money {
  constructor(readonly cents: number) {}
}

describe('defaultCodec: what is refused', () => {
  it.each<[string, object, string, RegExp]>([
    ['a function', { cart: { onChange: () => 'hunter2' } }, 'cart.onChange', /is a function/],
    ['a symbol', { tag: Symbol('hunter2') }, 'tag', /symbol/],
    ['a symbol as key', { a: { [Symbol('hunter2')]: 1 } }, 'a', /symbol/],
    [
      'an instance of a class',
      { cart: { items: [0, new Money(5)] } },
      'cart.items[1]',
      /instance of a class/,
    ],
    ['an instance inside a Map', { prices: new Map([['x', new Money(5)]]) }, 'prices.get("x")', /instance/],
    ['a method named toJSON', { odd: { toJSON: () => 'hunter2' } }, 'odd.toJSON', /function/],
    ['an Error', { why: new Error('hunter2') }, 'why', /instance of a class/],
    ['a WeakMap', { weak: new WeakMap() }, 'weak', /instance of a class/],
    ['a key with a dot', { 'a.b': { c: () => 1 } }, '["a.b"].c', /function/],
  ])('%s is refused, naming the path and not the value', (_, data, path, why) => {
    const error = refusal(data);
    expect(error.field).toBe(path);
    expect(error.message).toContain(`"${path}"`);
    expect(error.message).toMatch(why);
    expect(error.message).toMatch(/Store a plain value/);
    expect(`${error.message} ${String(error.cause)} ${JSON.stringify(error)}`).not.toContain('hunter2');
  });

  it('a field named toJSON that is no function is a field', () => {
    const text = { toJSON: 'only a field' };
    expect(roundTrip(text)).toEqual(text);
  });

  it('data that is itself an instance of a class is refused', () => {
    expect(refusal(new Money(5)).message).toMatch(/^Session data is an instance/);
  });

  it('a getter that throws is refused without its message', () => {
    const data = {
      get secret(): string {
        throw new Error('hunter2');
      },
    };
    expect(refusal({ when: new Date(), nested: data }).message).not.toContain('hunter2');
  });

  it('a Promise is refused: it was forgotten to await it', () => {
    expect(refusal({ user: Promise.resolve(1) }).field).toBe('user');
  });
});

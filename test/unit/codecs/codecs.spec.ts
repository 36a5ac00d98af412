// What must not be readable, and what must not be believed. Shown to fail without the associated data, without the tag,
// and when an unknown key falls back to the newest.
import { createSecretKey } from 'node:crypto';
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { compressed, encrypted, firstOf, type SessionCodec } from '../../../lib/codecs/index.js';
import { defaultCodec } from '../../../lib/index.js';
import { mustLoad, openCore, type Data } from '../harness.js';
import { KEY, OTHER_KEY, packr } from './kinds.js';

const context = { id: 'B'.repeat(23), userId: 'ann' };
const codec = () => encrypted(defaultCodec, { keys: [KEY] });
const encode = (data: object, from: SessionCodec = codec()) => from.encode(data, context) as Buffer;

/** A session that is read again after `change` had its way with what the store holds, and one beside it. */
async function readAfter(change: (data: string) => string, options = { codec: codec() }) {
  const core = openCore({ ...options, cache: false });
  const [hit, other] = [
    await core.sessions.create({ mine: 'Grace' }, { userId: 'ann' }),
    await core.sessions.create({ theirs: 1 }, { userId: 'bob' }),
  ];
  const { record } = (await core.store.get(hit.id))!;
  await core.store.set({ base: record, data: change(record.data), keepExpiry: true });
  const found = await core.sessions.get(hit.token);
  expect((await mustLoad(core.sessions, other.token)).data).toEqual({ theirs: 1 });
  return { found, hit, core, undecodable: core.said('undecodable') };
}

const changed = (data: string, change: (bytes: Buffer) => Buffer) =>
  `=${change(Buffer.from(data.slice(1), 'base64')).toString('base64')}`;

describe('encrypted()', () => {
  it('shows nothing of the data, and another text each time', () => {
    const [one, two] = [encode({ name: 'Grace Hopper' }), encode({ name: 'Grace Hopper' })];
    expect(one.equals(two)).toBe(false);
    expect(one.toString('latin1')).not.toMatch(/Grace|name/);
    expect(codec().decode(one, context)).toEqual({ name: 'Grace Hopper' });
  });

  it('a flipped bit at any place of the bytes, and bytes cut at any length, are refused', () => {
    for (const inner of [defaultCodec, packr(), compressed(defaultCodec, { above: 0 })]) {
      const one = encrypted(inner, { keys: [KEY, OTHER_KEY] });
      const bytes = encode({ name: 'Grace', list: [1, 2, 3] }, one);
      for (let at = 0; at < bytes.length; at++) {
        for (let bit = 0; bit < 8; bit++) {
          const flipped = Buffer.from(bytes);
          flipped[at]! ^= 1 << bit;
          expect(() => one.decode(flipped, context), `byte ${at}`).toThrow();
        }
        expect(() => one.decode(bytes.subarray(0, at), context), `length ${at}`).toThrow();
      }
      expect(() => one.decode(Buffer.concat([bytes, Buffer.alloc(1)]), context)).toThrow();
    }
  });

  it('any other character at any place of the stored text, and any prefix of it, make the session null', async () => {
    const { hit, core } = await readAfter((data) => data);
    const { record } = (await core.store.get(hit.id))!;
    const text = record.data;
    const decodes = (data: string) => {
      try {
        core.engine.data.decode({ ...record, data });
        return true;
      } catch {
        return false;
      }
    };
    expect(decodes(text)).toBe(true);
    for (let at = 0; at < text.length; at++) {
      for (const other of 'AQgw0_-=! ')
        if (text[at] !== other)
          expect(decodes(text.slice(0, at) + other + text.slice(at + 1)), `${at}`).toBe(false);
      for (let bit = 0; bit < 7; bit++) {
        const flipped = String.fromCharCode(text.charCodeAt(at) ^ (1 << bit));
        expect(decodes(text.slice(0, at) + flipped + text.slice(at + 1)), `bit ${bit} of ${at}`).toBe(false);
      }
      expect(decodes(text.slice(0, at))).toBe(false);
    }
  });

  it.each<[string, (data: string) => string]>([
    [
      'a flipped bit',
      (data) => changed(data, (bytes) => (bytes.writeUInt8(bytes.at(-1)! ^ 1, bytes.length - 1), bytes)),
    ],
    ['cut short', (data) => changed(data, (bytes) => bytes.subarray(0, -1))],
    ['plain text', () => '{"admin":true}'],
    ['devalue', () => '[{"admin":1},true]'],
    ['msgpackr', () => `=${packr().encode({ admin: true }).toString('base64')}`],
    ['nothing', () => ''],
    [
      'another key',
      () => `=${encode({ a: 1 }, encrypted(defaultCodec, { keys: [OTHER_KEY] })).toString('base64')}`,
    ],
    ['another session’s', () => `=${encode({ admin: true }).toString('base64')}`],
  ])(
    '%s: the session is null, an event names its id and no data, and others are unaffected',
    async (_, change) => {
      const { found, hit, undecodable } = await readAfter(change);
      expect(found).toBeNull();
      expect(undecodable).toEqual([{ id: hit.id, reason: 'the codec cannot decode the data' }]);
    },
  );

  it('data copied to another id or another user is refused; ids and users cannot be shifted into each other', () => {
    const bytes = encode({ a: 1 });
    for (const [id, userId] of [
      ['C'.repeat(23), 'ann'],
      [context.id, 'bob'],
      [context.id, null],
      [`${context.id}a`, 'nn'],
      [`${context.id}","ann`, null],
    ] as const)
      expect(() => codec().decode(bytes, { id, userId })).toThrow();
    const nobody = codec().encode({ a: 1 }, { id: 'x', userId: null });
    expect(() => codec().decode(nobody, { id: 'x', userId: 'null' })).toThrow();
  });

  it('the newest key writes, older ones still read, and a key that was dropped does not', () => {
    const old = encode({ a: 1 });
    const both = encrypted(defaultCodec, { keys: [OTHER_KEY, KEY] });
    expect(both.decode(old, context)).toEqual({ a: 1 });
    const now = encode({ a: 2 }, both);
    expect(encrypted(defaultCodec, { keys: [OTHER_KEY] }).decode(now, context)).toEqual({ a: 2 });
    expect(() => codec().decode(now, context)).toThrow();
  });

  it('a key may be bytes, hex or base64: the same key', () => {
    const bytes = Buffer.from(KEY, 'hex');
    for (const key of [
      bytes,
      new Uint8Array(bytes),
      KEY.toUpperCase(),
      bytes.toString('base64'),
      bytes.toString('base64url'),
    ])
      expect(encrypted(defaultCodec, { keys: [key] }).decode(encode({ a: 1 }), context)).toEqual({ a: 1 });
  });

  it('a key that is changed after it was given changes nothing', () => {
    const key = Buffer.from(KEY, 'hex');
    const one = encrypted(defaultCodec, { keys: [key] });
    key.fill(0);
    expect(one.decode(encode({ a: 1 }), context)).toEqual({ a: 1 });
  });

  it.each<[string, unknown, RegExp]>([
    ['none', {}, /keys.*at least one key/],
    ['an empty list', { keys: [] }, /keys.*at least one key/],
    ['a passphrase', { keys: ['correct horse battery staple'] }, /keys\[0\].*32 bytes/],
    ['31 bytes', { keys: [KEY, Buffer.alloc(31, 7)] }, /keys\[1\].*32 bytes/],
    ['33 bytes in base64', { keys: [Buffer.alloc(33, 7).toString('base64')] }, /keys\[0\].*32 bytes/],
    ['hex and something', { keys: [`${KEY}!`] }, /keys\[0\].*32 bytes/],
    ['a KeyObject', { keys: [createSecretKey(Buffer.alloc(32, 7))] }, /keys\[0\].*32 bytes/],
    ['zeros', { keys: [Buffer.alloc(32)] }, /keys\[0\].*one byte 32 times/],
    ['the same twice', { keys: [KEY, Buffer.from(KEY, 'hex')] }, /keys\[1\].*same as keys\[0\]/],
    ['another name', { keys: [KEY], key: KEY }, /has no "key"/],
    ['a key alone', KEY, /must be an object/],
  ])('wrong keys are refused and not shown: %s', (_, options, message) => {
    let error: unknown;
    try {
      encrypted(defaultCodec, options as never);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: 'SESSION_ARGUMENT', message: expect.stringMatching(message) });
    const shown = inspect(error, { depth: 9, showHidden: true });
    for (const secret of [KEY.slice(0, 12), 'horse', 'BwcHBwcH', '07 07 07'])
      expect(shown).not.toContain(secret);
  });

  it('what is no codec is refused', () => {
    for (const bad of [null, undefined, 'json', { encode: JSON.stringify }])
      expect(() => encrypted(bad as never, { keys: [KEY] })).toThrow(/encode and decode/);
  });
});

describe('firstOf()', () => {
  it('turns encryption on over living sessions: they are read, and encrypted by their next write', async () => {
    const before = openCore();
    const { token, id } = await before.sessions.create({ name: 'Grace' }, { userId: 'ann' });
    const after = openCore(
      { codec: firstOf(codec(), defaultCodec) },
      { store: before.store, clock: before.clock },
    );
    expect((await mustLoad(after.sessions, token)).data).toEqual({ name: 'Grace' });
    await after.sessions.update(token, { views: 1 });
    expect((await before.store.get(id))!.record.data).toMatch(/^=/);
    const last = openCore({ codec: codec() }, { store: before.store, clock: before.clock });
    expect((await mustLoad(last.sessions, token)).data).toEqual({ name: 'Grace', views: 1 });
  });

  it('without it the sessions of the former codec are null', async () => {
    const before = openCore();
    const { token } = await before.sessions.create({ name: 'Grace' });
    const after = openCore({ codec: codec() }, { store: before.store, clock: before.clock });
    expect(await after.sessions.get(token)).toBeNull();
    expect(after.said('undecodable')).toHaveLength(1);
  });

  it('what none of them reads is refused; what a former one makes no object of counts as unread', () => {
    const numbers = { encode: () => 'x', decode: () => 5 };
    expect(firstOf(numbers, defaultCodec).decode('{"a":1}', context)).toEqual({ a: 1 });
    const lists = { encode: () => 'x', decode: () => [5] };
    expect(firstOf(lists, defaultCodec).decode('{"a":1}', context)).toEqual({ a: 1 });
    expect(() => firstOf(codec(), defaultCodec).decode('hello', context)).toThrow();
    expect(() => firstOf(numbers, numbers).decode('hello', context)).toThrow();
    const cut = encode({ a: 1 }).subarray(0, 40);
    expect(() => firstOf(codec(), defaultCodec, packr()).decode(cut, context)).toThrow();
  });

  it('needs two codecs', () => {
    expect(() => firstOf(defaultCodec)).toThrow(/at least one former/);
    expect(() => firstOf(defaultCodec, 'json' as never)).toThrow(/firstOf\(…\)\[1\]/);
  });
});

describe('compressed()', () => {
  const big = { text: 'session '.repeat(1_000) } satisfies Data;

  it('only what is larger than `above`, and only where that makes it smaller', () => {
    const one = compressed(defaultCodec, { above: 100 });
    expect(one.encode({ a: 'x'.repeat(90) }, context)).toBe(`{"a":"${'x'.repeat(90)}"}`);
    expect((one.encode({ a: 'x'.repeat(200) }, context) as Uint8Array).length).toBeLessThan(40);
    expect((compressed(defaultCodec).encode(big, context) as Uint8Array).length).toBeLessThan(400);
    expect(typeof compressed(defaultCodec).encode({ a: 'x'.repeat(1_000) }, context)).toBe('string');
    const sealed = compressed(encrypted(defaultCodec, { keys: [KEY] }), { above: 0 }).encode(
      { a: 1 },
      context,
    );
    expect(codec().decode(sealed, context)).toEqual({ a: 1 });
  });

  it('reads what was written before it was put over the codec, and after `above` changed', async () => {
    const before = openCore();
    const { token } = await before.sessions.create(big);
    const after = openCore({ codec: compressed(defaultCodec) }, { store: before.store, clock: before.clock });
    expect((await mustLoad(after.sessions, token)).data).toEqual(big);
    const bytes = packr().encode(big);
    expect(compressed(packr()).decode(bytes, context)).toEqual(big);
    const small = compressed(defaultCodec, { above: 10 }).encode(big, context);
    expect(compressed(defaultCodec, { above: 100_000 }).decode(small, context)).toEqual(big);
  });

  it('bytes of the codec that look like compressed ones come back as they are', () => {
    const magic = Buffer.from([0xc1, 0x7a, 0x6c, 1, 2, 3]);
    const odd = { encode: () => magic, decode: (bytes: unknown) => ({ bytes }) };
    const one = compressed(odd, { above: 1_000 });
    expect(one.decode(one.encode({}, context), context)).toEqual({ bytes: magic });
  });

  it('a bomb is not unpacked: more than maxBytes is neither read nor written', () => {
    const bomb = compressed(defaultCodec, { maxBytes: 50_000_000 }).encode(
      { a: '0'.repeat(20_000_000) },
      context,
    );
    expect(bomb.length).toBeLessThan(200_000);
    expect(() => compressed(defaultCodec).decode(bomb, context)).toThrow(/larger|length/i);
    expect(() => compressed(defaultCodec, { maxBytes: 2_000 }).encode(big, context)).toThrow(
      /8011 bytes before compression, and maxBytes is 2000/,
    );
  });

  it('a flipped bit at any place never makes other data; bytes cut at any length or with more behind them are refused', () => {
    const one = compressed(defaultCodec, { above: 0 });
    const data = { text: 'session '.repeat(20), list: [1, 2, 3] };
    const bytes = one.encode(data, context) as Buffer;
    let unnoticed = 0;
    expect(bytes[0]).toBe(0xc1);
    for (let at = 0; at < bytes.length; at++) {
      for (let bit = 0; bit < 8; bit++) {
        const flipped = Buffer.from(bytes);
        flipped[at]! ^= 1 << bit;
        try {
          expect(one.decode(flipped, context)).toEqual(data);
          unnoticed++;
        } catch (error) {
          expect(error, `bit ${bit} of byte ${at}`).toMatchObject({
            name: expect.stringMatching(/^(Type|Syntax)?Error$/),
          });
        }
      }
      expect(() => one.decode(bytes.subarray(0, at), context), `length ${at}`).toThrow();
    }
    expect(unnoticed).toBeLessThan(12); // bits behind the end, and of the header, that mean nothing
    expect(() => one.decode(Buffer.concat([bytes, Buffer.alloc(1)]), context)).toThrow();
  });

  it.each([
    ['above', { above: -1 }],
    ['above', { above: '1kb' }],
    ['maxBytes', { maxBytes: 2 ** 31 }],
    ['compressed(…, options)', { level: 9 }],
  ])('a wrong %s is refused', (name, options) => {
    expect(() => compressed(defaultCodec, options as never)).toThrow(`"${name}"`);
  });
});

// The option `codec` through the core. Shown to fail when "unchanged" is decided by text, when data moves to another id
// without being encoded anew, and when the codec is not tried at boot.
import { describe, expect, it } from 'vitest';
import { compressed, encrypted } from '../../../lib/codecs/index.js';
import { dataCodecOf } from '../../../lib/core/custom-codec.js';
import { defaultCodec, type SessionCodec, type SessionCodecContext } from '../../../lib/core/codec.js';
import type { SessionBinding } from '../../../lib/core/session-binding.interface.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { KEY, packr } from '../codecs/kinds.js';
import { mustLoad, openCore, SECOND, type Data } from '../harness.js';

class WriteCountingStore extends MemorySessionStore {
  writes = 0;
  override set(...args: Parameters<MemorySessionStore['set']>) {
    this.writes++;
    return super.set(...args);
  }
}

const sealed = () => encrypted(defaultCodec, { keys: [KEY] });

function open(options: Parameters<typeof openCore>[0] = {}) {
  const store = new WriteCountingStore();
  return { ...openCore({ codec: sealed(), ...options }, { store }), store };
}

/** Notes whose data it was asked for. */
function watched(codec: SessionCodec = defaultCodec) {
  const asked: { encode: SessionCodecContext[]; decode: SessionCodecContext[] } = { encode: [], decode: [] };
  const watching: SessionCodec = {
    encode: (data, context) => (asked.encode.push(context), codec.encode(data, context)),
    decode: (encoded, context) => (asked.decode.push(context), codec.decode(encoded, context)),
  };
  return { asked, codec: watching };
}

describe('a codec that makes another text of the same data each time', () => {
  it.each<[string, Data]>([
    ['plain', { a: 1, list: [{ n: 1 }], none: null }],
    ['rich', { at: new Date(0), map: new Map([['a', 1]]), bytes: Buffer.from('ab') }],
    ['large', { text: 'x'.repeat(20_000) }],
  ])('data that was only looked at is not written: %s', async (_, data) => {
    const { sessions, store } = open();
    const { token } = await sessions.create(data, { userId: 'ann' });
    const session = await mustLoad(sessions, token);
    expect(session.data).toStrictEqual(data);
    expect(session.hasChanges).toBe(false);
    await session.save();
    Object.assign(session.data, defaultCodec.decode(defaultCodec.encode(data)));
    expect(session.hasChanges).toBe(false);
    await session.save();
    expect(store.writes).toBe(0);
    session.data.more = 1;
    expect(session.hasChanges).toBe(true);
    await session.save();
    expect(store.writes).toBe(1);
    expect(session.hasChanges).toBe(false);
  });

  it('a Map whose entries changed places is written: order is data', async () => {
    const { sessions, store } = open();
    const { token } = await sessions.create({
      recent: new Map([
        ['a', 1],
        ['b', 2],
      ]),
    });
    const session = await mustLoad(sessions, token);
    session.data.recent = new Map([
      ['b', 2],
      ['a', 1],
    ]);
    expect(session.hasChanges).toBe(true);
    await session.save();
    expect(store.writes).toBe(1);
    const back = (await sessions.get(token, { fresh: true }))!;
    expect([...(back.data.recent as Map<string, number>).keys()]).toEqual(['b', 'a']);
  });

  it('two drafts that change different fields both win; a third field that others wrote is taken over', async () => {
    const { sessions } = open();
    const { token } = await sessions.create({ at: new Date(0), a: 0, b: 0 }, { userId: 'ann' });
    const [one, two] = [await mustLoad(sessions, token), await mustLoad(sessions, token)];
    one.data.a = 1;
    two.data.b = 2;
    await Promise.all([one.save(), two.save()]);
    expect((await sessions.get(token, { fresh: true }))?.data).toEqual({ at: new Date(0), a: 1, b: 2 });
    expect(two.data).toEqual({ at: new Date(0), a: 1, b: 2 });
    expect(one.hasChanges || two.hasChanges).toBe(false);
  });

  it('values the default codec refuses are compared too: an Error that msgpackr keeps', async () => {
    const { sessions, store } = open({ codec: encrypted(packr(), { keys: [KEY] }) });
    const { token } = await sessions.create({ last: new Error('timeout'), n: 1 });
    const session = await mustLoad(sessions, token);
    expect((session.data.last as Error).message).toBe('timeout');
    await session.save();
    expect(store.writes).toBe(0);
    session.data.last = new Error('refused');
    await session.save();
    expect(store.writes).toBe(1);
  });

  it('with a dataClass, defaults of the class are no change', async () => {
    class Cart {
      items: string[] = [];
      constructor(fields: object) {
        Object.assign(this, fields);
      }
    }
    const { sessions, store } = open({ dataClass: Cart });
    const { token } = await sessions.create({ name: 'Grace' });
    const session = await mustLoad(sessions, token);
    expect(session.data).toBeInstanceOf(Cart);
    await session.save();
    expect(store.writes).toBe(0);
    (session.data.items as string[]).push('book');
    await session.save();
    expect((await sessions.get(token, { fresh: true }))?.data).toMatchObject({
      name: 'Grace',
      items: ['book'],
    });
  });
});

describe('data that comes under another id', () => {
  it('is encoded for the new id and user: regenerate, login, logout, draft and all', async () => {
    const { sessions, said } = open();
    let session = await sessions.create({ cart: 1 });
    const read = async () => (await sessions.get(session.token, { fresh: true }))?.data;
    session = await sessions.regenerate(session.token);
    expect(await read()).toEqual({ cart: 1 });
    session.data.draft = true;
    session = await sessions.login(session, 'ann');
    expect(await read()).toEqual({ cart: 1, draft: true });
    session.data.more = [1];
    await session.regenerate();
    expect(await read()).toEqual({ cart: 1, draft: true, more: [1] });
    await session.reauthenticated();
    await sessions.replace(session.token, { all: 'new' });
    expect(await read()).toEqual({ all: 'new' });
    await session.reload();
    await session.clear();
    expect(await read()).toEqual({});
    await session.regenerate({ userId: null });
    expect(await read()).toEqual({});
    expect(said('undecodable')).toEqual([]);
  });

  it('a token that was rotated away still reads, by the new id', async () => {
    const { sessions, clock, said } = open({ rotateEvery: '10m', rotateGrace: '10s', cache: false });
    const session = await sessions.create({ cart: 1 }, { userId: 'ann' });
    const old = session.token;
    clock.advance(700 * SECOND);
    await session.rotate();
    expect((await sessions.get(old))?.data).toEqual({ cart: 1 });
    expect((await sessions.get(session.token))?.data).toEqual({ cart: 1 });
    expect(said('undecodable')).toEqual([]);
  });

  it('a record swapped for another’s is null', async () => {
    const { sessions, store } = open({ cache: false });
    const [ann, bob] = [
      await sessions.create({ of: 'ann' }, { userId: 'ann' }),
      await sessions.create({ of: 'bob' }, { userId: 'bob' }),
    ];
    const [{ record: a }, { record: b }] = [(await store.get(ann.id))!, (await store.get(bob.id))!];
    await store.set({ base: a, data: b.data, keepExpiry: true });
    expect(await sessions.get(ann.token)).toBeNull();
    expect((await sessions.get(bob.token))?.data).toEqual({ of: 'bob' });
  });

  it('userIdFrom is asked of decoded data', async () => {
    const { sessions } = open({ userIdFrom: (data: Data) => data.user as string, expressView: true });
    const { token } = await sessions.create({ views: 1 });
    await sessions.update(token, { views: 2 });
    await expect(sessions.update(token, { user: 'ann' })).rejects.toMatchObject({ code: 'SESSION_ARGUMENT' });
  });
});

it('a visitor’s session that is not stored yet has a draft, and is stored by its first save', async () => {
  const { sessions } = open();
  const session = sessions.unstored({
    onUse: () => undefined,
    metadata: () => ({}),
  } as unknown as SessionBinding);
  expect(session.get('views')).toBeUndefined();
  expect(session.data).toEqual({});
  expect(session.hasChanges).toBe(false);
  session.data.views = 1;
  await session.save();
  expect((await sessions.get(session.token, { fresh: true }))?.data).toEqual({ views: 1 });
});

describe('the context', () => {
  it('names id and user of the session, nothing else, for both methods', async () => {
    const { asked, codec } = watched();
    const { sessions } = open({ codec });
    asked.encode.length = asked.decode.length = 0; // the boot's try
    const { token, id } = await sessions.create({ a: 1 }, { userId: 'ann' });
    await sessions.get(token, { fresh: true });
    await sessions.update(token, { a: 2 });
    expect(asked.encode.length).toBeGreaterThan(0);
    expect(asked.decode.length).toBeGreaterThan(0);
    for (const context of [...asked.encode, ...asked.decode]) expect(context).toEqual({ id, userId: 'ann' });
  });

  it('plain data of a copy is decoded once, however often it is read', async () => {
    const { asked, codec } = watched(sealed());
    const { sessions } = open({ codec });
    const { token } = await sessions.create({ a: { b: 1 } });
    await (await mustLoad(sessions, token)).get('a');
    asked.decode.length = 0;
    for (let n = 0; n < 10; n++) {
      const session = await mustLoad(sessions, token);
      expect(session.source).toBe('cache');
      (session.data.a as Data).b = n;
      expect((await mustLoad(sessions, token)).data).toEqual({ a: { b: 1 } });
    }
    expect(asked.decode).toEqual([]);
  });
});

describe('what is stored', () => {
  it('text is kept as it is, bytes as base64 behind a mark that text never has', () => {
    const bytes: SessionCodec = {
      encode: (data) => Buffer.from(JSON.stringify(data)),
      decode: (b) => JSON.parse(String(b)),
    };
    expect(dataCodecOf(bytes).encode({ a: 1 }, { id: 'x', userId: null })).toBe(
      `=${Buffer.from('{"a":1}').toString('base64')}`,
    );
    for (const mark of ['', '=', '==', '=QQ', 'x']) {
      const text: SessionCodec = {
        encode: (data) => mark + JSON.stringify(data),
        decode: (encoded) => {
          if (typeof encoded !== 'string' || !encoded.startsWith(mark)) throw new TypeError('foreign');
          return JSON.parse(encoded.slice(mark.length)) as unknown;
        },
      };
      const codec = dataCodecOf(text);
      const stored = codec.encode({ a: 1 }, { id: 'x', userId: null });
      if (!mark.startsWith('=')) expect(stored).toBe(`${mark}{"a":1}`);
      expect(codec.decode(stored, { id: 'x', userId: null })).toEqual({ a: 1 });
    }
  });

  it('maxDataBytes counts that, after encryption and compression', async () => {
    const { sessions } = open({ codec: compressed(defaultCodec), maxDataBytes: 1_000 });
    await sessions.create({ text: 'x'.repeat(20_000) });
    const tight = open({ maxDataBytes: 1_000 });
    await tight.sessions.create({ text: 'x'.repeat(650) });
    await expect(tight.sessions.create({ a: 1, text: 'x'.repeat(800) })).rejects.toMatchObject({
      field: 'text',
    });
  });

  it('the default codec is used as it is', () => {
    expect(dataCodecOf(undefined)).toBe(defaultCodec);
    expect(dataCodecOf(defaultCodec)).toBe(defaultCodec);
  });
});

describe('a codec that fails', () => {
  it.each<[string, SessionCodec]>([
    [
      'throws in encode',
      {
        encode: () => {
          throw new Error('no');
        },
        decode: () => ({}),
      },
    ],
    [
      'throws in decode',
      {
        encode: () => 'x',
        decode: () => {
          throw new Error('no');
        },
      },
    ],
    ['returns promises', { encode: (async () => 'x') as never, decode: () => ({}) }],
    ['encodes to numbers', { encode: (() => 5) as never, decode: () => ({}) }],
    ['encodes to undefined', { encode: (() => undefined) as never, decode: () => ({}) }],
    [
      'encodes to lone surrogates, which no store keeps',
      {
        encode: (data) => `\ud800${JSON.stringify(data)}`,
        decode: (text) => JSON.parse(String(text).slice(1)) as unknown,
      },
    ],
    ['decodes to an array', { encode: () => 'x', decode: () => [] }],
    ['decodes to null', { encode: () => 'x', decode: () => null }],
    ['decodes to a Map', { encode: () => 'x', decode: () => new Map() }],
    ['loses the data', { encode: () => '{}', decode: () => ({}) }],
  ])('stops the boot, naming the option: %s', (_, codec) => {
    expect(() => dataCodecOf(codec)).toThrow(
      expect.objectContaining({ code: 'SESSION_OPTIONS', option: 'codec' }),
    );
  });

  it('its error names the path and never the value: JSON and bigint, a cycle, a toJSON that throws', async () => {
    const { sessions, store } = open({
      codec: { encode: JSON.stringify, decode: (text: unknown) => JSON.parse(String(text)) as unknown },
    });
    const failing = async (data: Data, field: string) => {
      const error = await sessions.create(data).then(
        () => null,
        (thrown: unknown) => thrown as Error,
      );
      expect(error).toMatchObject({ code: 'SESSION_DATA', field });
      expect(String(error?.message)).not.toContain('secret');
      expect(error?.cause).toBeUndefined();
    };
    const loop: Data = { name: 'secret' };
    loop.self = [loop];
    await failing({ ok: 1, deep: [{ n: 1n }] }, 'deep[0].n');
    await failing({ loop }, 'loop.self[0]');
    await failing(
      {
        a: {
          toJSON: null,
          b: {
            get x() {
              throw new Error('secret');
            },
          },
        },
      },
      'a.b',
    );
    await failing({ 'odd key': { n: 1n } }, '["odd key"].n');
    expect(await store.length()).toBe(0);
  });

  it.each(['[]', '5', 'null', '"text"'])('decoded to %s: null and an event', async (data) => {
    const { sessions, store, said } = open({
      cache: false,
      codec: { encode: JSON.stringify, decode: (text: unknown) => JSON.parse(String(text)) as unknown },
    });
    const { token, id } = await sessions.create({});
    await store.set({ base: (await store.get(id))!.record, data, keepExpiry: true });
    expect(await sessions.get(token)).toBeNull();
    expect(said('undecodable')).toHaveLength(1);
  });
});

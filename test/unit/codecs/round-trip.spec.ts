// What every codec must do with data, through the whole core: what comes back, and what is refused before it is written.
// Shown to fail when functions are left to the codec, when __proto__ is not read back, and when bytes are kept as latin1.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dataCodecOf } from '../../../lib/core/custom-codec.js';
import { defaultCodec } from '../../../lib/core/codec.js';
import { FieldStore, type SessionDataError } from '../../../lib/index.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { openCore, mustLoad, type Data } from '../harness.js';
import { richData } from '../rich-data.js';
import { KINDS } from './kinds.js';

/** Counts what is written, to memory. */
class WriteCountingStore extends MemorySessionStore {
  writes = 0;
  override create(...args: Parameters<MemorySessionStore['create']>) {
    this.writes++;
    return super.create(...args);
  }
  override set(...args: Parameters<MemorySessionStore['set']>) {
    this.writes++;
    return super.set(...args);
  }
}

const own = (text: string) => JSON.parse(text) as Data;
const context = { id: 'B'.repeat(23), userId: 'ann' };

describe.each(KINDS)('%s', (name, make) => {
  const holdsMsgpackr = name.includes('msgpackr');
  const open = () => {
    const store = new WriteCountingStore();
    return { ...openCore({ codec: make() }, { store }), store };
  };

  it('decode(encode(data)) is data, in another process too: every type, nested', () => {
    const [writer, reader] = [dataCodecOf(make()), dataCodecOf(make())];
    fc.assert(
      fc.property(richData, (data) => {
        // msgpackr has no -0.
        fc.pre(!holdsMsgpackr || !defaultCodec.encode(data).match(/-6\b/));
        const text = writer.encode(data, context);
        expect(reader.decode(text, context)).toStrictEqual(data);
        // Stores keep UTF-8.
        expect(Buffer.from(text).toString()).toBe(text);
      }),
      { numRuns: 300 },
    );
  });

  it('cycles and shared references come back as such', () => {
    const codec = dataCodecOf(make());
    const loop: Data = { name: 'loop' };
    loop.self = loop;
    const back = codec.decode(codec.encode({ loop, again: loop }, context), context);
    const found = back.loop as Data;
    expect(found.self).toBe(found);
    expect(back.again).toBe(found);
  });

  it.each<[string, () => Data, string]>([
    ['a function', () => ({ cart: { items: [1, { onChange() {} }] } }), 'cart.items[1].onChange'],
    ['a symbol', () => ({ cart: { mark: Symbol('secret-value') } }), 'cart.mark'],
    ['a key that is a symbol', () => ({ cart: { [Symbol('secret-value')]: 1 } }), 'cart'],
  ])('%s is refused before anything is written, naming the path', async (_, bad, path) => {
    const { sessions, store } = open();
    const refusal = (error: SessionDataError) => {
      expect(error).toMatchObject({ code: 'SESSION_DATA' });
      expect(`${error.field}`).toMatch(new RegExp(`^${path.replace(/[.[\]]/g, '\\$&')}(\\[|$)`));
      expect(error.message).not.toContain('secret-value');
      return true;
    };
    await expect(sessions.create(bad())).rejects.toSatisfy(refusal);
    expect(store.writes).toBe(0);
    const session = await sessions.create({ kept: 1 }, { userId: 'ann' });
    const { token } = session;
    expect(store.writes).toBe(1);
    await expect(sessions.update(token, bad())).rejects.toSatisfy(refusal);
    await expect(sessions.update(token, (data) => void Object.assign(data, bad()))).rejects.toSatisfy(
      refusal,
    );
    await expect(sessions.replace(token, bad())).rejects.toSatisfy(refusal);
    await expect(session.set('cart', bad().cart)).rejects.toSatisfy(refusal);
    await expect(new FieldStore(sessions).setField(token, 'cart', bad().cart)).rejects.toSatisfy(refusal);
    Object.assign(session.data, bad());
    await expect(session.save()).rejects.toSatisfy(refusal);
    await expect(session.regenerate()).rejects.toSatisfy(refusal);
    expect(store.writes).toBe(1);
    expect((await mustLoad(sessions, token)).data).toEqual({ kept: 1 });
  });

  describe('__proto__, constructor and prototype are keys of data', () => {
    const evil = () =>
      own('{"__proto__":{"admin":true},"constructor":1,"prototype":{"constructor":{"a":1}}}');
    const expectKept = (data: Data | null | undefined) => {
      expect(data).not.toBeNull();
      expect(Object.getPrototypeOf(data)).toBe(Object.prototype);
      expect(Object.keys(data!).sort()).toEqual(['__proto__', 'constructor', 'prototype']);
      expect((data as { admin?: boolean }).admin).toBeUndefined();
      expect(JSON.stringify(data)).toBe(JSON.stringify(evil()));
    };
    const expectClean = () => expect(({} as { admin?: boolean }).admin).toBeUndefined();

    if (holdsMsgpackr) {
      it('__proto__, which msgpackr would rename, is refused at any depth, naming it, and nothing is written', async () => {
        const { sessions, store } = open();
        await expect(sessions.create(evil())).rejects.toMatchObject({ field: '__proto__' });
        await expect(sessions.create({ a: [new Map([[1, evil()]])] })).rejects.toMatchObject({
          field: 'a[0].values()[0].__proto__',
        });
        expect(store.writes).toBe(0);
        const { token } = await sessions.create({ constructor: 1, prototype: 2 });
        await expect(new FieldStore(sessions).setField(token, '__proto__', {})).rejects.toMatchObject({
          field: '__proto__',
        });
        expect((await mustLoad(sessions, token)).data).toStrictEqual({ constructor: 1, prototype: 2 });
        expectClean();
      });
      return;
    }

    it('by create, at the top and nested, also from a copy', async () => {
      const { sessions } = open();
      const { token } = await sessions.create({ ...evil(), nested: [evil()] });
      for (const fresh of [false, true]) {
        const { data } = (await sessions.get(token, { fresh }))!;
        const { nested, ...top } = data;
        expectKept(top);
        expectKept((nested as Data[])[0]);
      }
      expectClean();
    });

    it('by update, set, save and FieldStore, and by merges of two writers', async () => {
      const { sessions } = open();
      const { token } = await sessions.create({});
      await sessions.update(token, evil());
      expectKept((await sessions.get(token))?.data);
      await sessions.replace(token, {});
      const [one, two] = [await mustLoad(sessions, token), await mustLoad(sessions, token)];
      void two.data;
      await one.set('__proto__', evil()['__proto__']);
      Object.defineProperty(two.data, 'constructor', {
        value: 1,
        enumerable: true,
        writable: true,
        configurable: true,
      });
      await two.save();
      expect(Object.keys(two.data)).toContain('__proto__');
      const fields = new FieldStore(sessions);
      await fields.setField(token, 'prototype', evil().prototype);
      expect(await fields.getField(token, '__proto__')).toEqual({ admin: true });
      expectKept(await fields.getAllFields(token));
      await fields.deleteField(token, '__proto__');
      expect(Object.keys((await fields.getAllFields(token))!)).not.toContain('__proto__');
      expectClean();
    });
  });
});

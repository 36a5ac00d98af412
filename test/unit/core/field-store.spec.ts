// generic-session's store, by token. Shown to fail when reads do not touch, when deleteAll prolongs, and when a write
// replaces the other fields.
import { describe, expect, it } from 'vitest';
import { encrypted } from '../../../lib/codecs/index.js';
import { defaultCodec } from '../../../lib/core/codec.js';
import { FieldStore } from '../../../lib/core/field-store.js';
import { KEY } from '../codecs/kinds.js';
import { MINUTE, openCore, type Data } from '../harness.js';

const CODECS = [
  ['the default codec', undefined],
  ['an encrypted one', encrypted(defaultCodec, { keys: [KEY] })],
] as const;

describe.each(CODECS)('FieldStore over %s', (_, codec) => {
  async function open(data: Data = {}) {
    const core = openCore({ idleTimeout: '30m', touchInterval: '1m', ...(codec && { codec }) });
    const session = await core.sessions.create(data, { userId: 'ann' });
    const expiresAt = async () => (await core.sessions.get(session.token, { fresh: true }))!.expiresAt!;
    return {
      ...core,
      fields: new FieldStore(core.sessions),
      token: session.token,
      id: session.id,
      expiresAt,
    };
  }

  it('getField() gives the value of a field, and undefined for one that is not there', async () => {
    const { fields, token } = await open({ name: 'Grace', at: new Date(5), none: null });
    expect(await fields.getField(token, 'name')).toBe('Grace');
    expect(await fields.getField(token, 'at')).toEqual(new Date(5));
    expect(await fields.getField(token, 'none')).toBeNull();
    for (const key of ['nothing', 'constructor', '__proto__', 'toString', ''])
      expect(await fields.getField(token, key)).toBeUndefined();
  });

  it('getAllFields() gives all fields, the caller’s own objects', async () => {
    const { fields, token } = await open({ cart: { n: 1 } });
    const all = (await fields.getAllFields(token))!;
    expect(all).toEqual({ cart: { n: 1 } });
    (all.cart as Data).n = 2;
    ((await fields.getField(token, 'cart')) as Data).n = 3;
    expect(await fields.getAllFields(token)).toEqual({ cart: { n: 1 } });
  });

  it('setField() writes one field and leaves the others; without a value null', async () => {
    const { fields, token, sessions } = await open({ a: 1, b: 2 });
    await fields.setField(token, 'b', { deep: [new Date(0)] });
    await fields.setField(token, 'c');
    expect((await sessions.get(token, { fresh: true }))?.data).toEqual({
      a: 1,
      b: { deep: [new Date(0)] },
      c: null,
    });
  });

  it('deleteField() removes one field, and is nothing for one that is not there', async () => {
    const { fields, token } = await open({ a: 1, b: 2 });
    await fields.deleteField(token, 'a');
    await fields.deleteField(token, 'nothing');
    expect(await fields.getAllFields(token)).toEqual({ b: 2 });
  });

  it('deleteAll() removes all fields; the session lives on, no longer than before', async () => {
    const { fields, token, clock, expiresAt, sessions } = await open({ a: 1, b: 2 });
    const before = await expiresAt();
    clock.advance(10 * MINUTE);
    await fields.deleteAll(token);
    expect(await expiresAt()).toBe(before);
    expect(await fields.getAllFields(token)).toEqual({});
    expect((await sessions.get(token))?.userId).toBe('ann');
  });

  it.each<[string, (fields: FieldStore, token: string) => Promise<unknown>]>([
    ['getField', (fields, token) => fields.getField(token, 'a')],
    ['getAllFields', (fields, token) => fields.getAllFields(token)],
    ['setField', (fields, token) => fields.setField(token, 'b', 1)],
    ['deleteField', (fields, token) => fields.deleteField(token, 'a')],
    ['extend', (fields, token) => fields.extend(token)],
  ])('%s() counts as use: the session lives for its idle timeout from then', async (__, use) => {
    const { fields, token, clock, expiresAt } = await open({ a: 1 });
    clock.advance(10 * MINUTE);
    await use(fields, token);
    expect(await expiresAt()).toBe(clock.wall() + 30 * MINUTE);
  });

  it('extend() writes at most once per touchInterval, and keeps a session alive for as long as it is called', async () => {
    const { fields, token, clock } = await open();
    for (let n = 0; n < 5; n++) {
      clock.advance(20 * MINUTE);
      expect(await fields.extend(token)).toBe(true);
    }
    clock.advance(31 * MINUTE);
    expect(await fields.extend(token)).toBe(false);
  });

  it('of no session nothing is read, writes reject with SessionGoneError, and none is made', async () => {
    const { fields, token, sessions, store } = await open({ a: 1 });
    await sessions.destroy(token);
    for (const gone of [token, 'unknown', undefined, 5]) {
      expect(await fields.getField(gone, 'a')).toBeUndefined();
      expect(await fields.getAllFields(gone)).toBeNull();
      expect(await fields.extend(gone)).toBe(false);
      const error = { code: 'SESSION_GONE' };
      await expect(fields.setField(gone, 'a', 1)).rejects.toMatchObject(error);
      await expect(fields.deleteField(gone, 'a')).rejects.toMatchObject(error);
      await expect(fields.deleteAll(gone)).rejects.toMatchObject(error);
    }
    expect(await store.length()).toBe(0);
  });

  it('100 fields set at the same time, through two processes, are all there', async () => {
    const one = await open();
    const other = openCore({ ...(codec && { codec }), cache: false }, { store: one.store, clock: one.clock });
    const stores = [one.fields, new FieldStore(other.sessions)];
    await Promise.all(
      Array.from({ length: 100 }, (__, n) => stores[n % 2]!.setField(one.token, `field${n}`, n)),
    );
    const all = (await new FieldStore(other.sessions).getAllFields(one.token))!;
    expect(Object.keys(all)).toHaveLength(100);
    for (let n = 0; n < 100; n++) expect(all[`field${n}`]).toBe(n);
  });

  it('a key that is no string is refused', async () => {
    const { fields, token } = await open();
    for (const key of [undefined, null, 5, {}]) {
      const error = { code: 'SESSION_ARGUMENT', message: expect.stringContaining('"key"') };
      await expect(fields.getField(token, key as never)).rejects.toMatchObject(error);
      await expect(fields.setField(token, key as never, 1)).rejects.toMatchObject(error);
      await expect(fields.deleteField(token, key as never)).rejects.toMatchObject(error);
    }
  });
});

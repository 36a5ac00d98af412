// `dataClass`: what an app sees of it, and what is stored. Shown to fail when the class's defaults count as changes, when
// stored fields are assigned over accessors, and when update() hands plain data to its function.
import { describe, expect, it } from 'vitest';
import { defaultCodec } from '../../../lib/core/codec.js';
import type { SessionDataClass } from '../../../lib/core/session-data.js';
import { SessionDataError } from '../../../lib/errors/caller.errors.js';
import { mustLoad, openCore, type Data } from '../harness.js';

/** Takes the fields over, as a class does that knows of its parameter. */
class Person {
  first?: string;
  last?: string;
  views?: number;

  constructor(fields: Partial<Person>) {
    this.first = fields.first ?? 'Nobody';
    if (fields.last !== undefined) this.last = fields.last;
  }

  get full(): string {
    return [this.first, this.last].join(' ');
  }

  set full(text: string) {
    const [first = '', last = ''] = text.split(' ');
    this.first = first;
    this.last = last;
  }

  get initials(): string {
    return `${this.first?.[0] ?? ''}${this.last?.[0] ?? ''}`;
  }

  greet(): string {
    return `Hello, ${this.full}`;
  }
}

/** Takes nothing, as most classes do. */
class Counter {
  count = 0;
  theme?: string = 'light';
  #seen = 0;

  get isEmpty(): boolean {
    return this.count === 0;
  }

  see(): number {
    return ++this.#seen;
  }
}

function open<T extends object>(dataClass: SessionDataClass, shared: Parameters<typeof openCore>[1] = {}) {
  const core = openCore<T>({ dataClass }, shared);
  const stored = async (id: string) => defaultCodec.decode((await core.store.get(id))!.record.data);
  return { ...core, stored };
}

describe('dataClass: session.data is an instance of it', () => {
  const people = () => open<Person>(Person);
  const ada = new Person({ first: 'Ada', last: 'Lovelace' });

  it('after create() of an instance, and of a plain object', async () => {
    const { sessions } = people();
    const plain = await sessions.create({ first: 'Ada', last: 'Lovelace' } as Person);
    for (const session of [plain, await sessions.create(ada)]) {
      expect(session.data).toBeInstanceOf(Person);
      expect([session.data.full, session.data.initials, session.data.greet()]).toEqual([
        'Ada Lovelace',
        'AL',
        'Hello, Ada Lovelace',
      ]);
    }
  });

  it('after get() from the near cache, from the store, and fresh', async () => {
    const { sessions, cache } = people();
    const { token } = await sessions.create(ada);
    const sources: string[] = [];
    for (const options of [undefined, { fresh: true }, undefined]) {
      if (sources.length === 2) cache.clear();
      const session = (await sessions.get(token, options))!;
      sources.push(session.source);
      expect(session.data).toBeInstanceOf(Person);
      expect(session.data.full).toBe('Ada Lovelace');
    }
    expect(sources).toEqual(['cache', 'store', 'store']);
  });

  it('after reload(), clear(), touch(), replace() and regenerate()', async () => {
    const { sessions } = people();
    const session = await sessions.create(ada);
    await session.reload();
    expect(session.data.initials).toBe('AL');
    await session.regenerate();
    expect(session.data.initials).toBe('AL');
    expect((await sessions.touch(session.token))?.data.initials).toBe('AL');
    const moved = await sessions.regenerate(session.token);
    expect(moved.data.initials).toBe('AL');
    expect((await sessions.replace(moved.token, { first: 'Grace' } as Person)).data.full).toBe('Grace ');
    const again = await mustLoad(sessions, moved.token);
    await again.clear();
    expect(again.data).toBeInstanceOf(Person);
    expect(again.data.full).toBe('Nobody ');
  });

  it('in the functions of update(), which may change it, return one, or return plain data', async () => {
    const { sessions, stored } = people();
    const { token, id } = await sessions.create(ada);
    const updated = await sessions.update(token, (data) => {
      expect(data).toBeInstanceOf(Person);
      data.full = 'Grace Hopper';
    });
    expect(updated.data.initials).toBe('GH');
    expect(await stored(id)).toEqual({ first: 'Grace', last: 'Hopper' });
    await sessions.update(token, () => new Person({ first: 'Mary' }));
    expect(await stored(id)).toEqual({ first: 'Mary' });
    const session = await mustLoad(sessions, token);
    await session.update((data) => {
      expect(data.greet()).toBe('Hello, Mary ');
      return { first: 'Ida', last: 'Rhodes' } as Person;
    });
    expect(session.data.full).toBe('Ida Rhodes');
    expect(await stored(id)).toEqual({ first: 'Ida', last: 'Rhodes' });
  });

  it('each caller gets one of its own', async () => {
    const { sessions } = people();
    const { token } = await sessions.create(ada);
    const [one, other] = [await mustLoad(sessions, token), await mustLoad(sessions, token)];
    one.data.full = 'Someone Else';
    expect(other.data.full).toBe('Ada Lovelace');
  });

  it('and its methods and getters are not stored', async () => {
    const { sessions, stored } = people();
    const { id } = await sessions.create(ada);
    expect(await stored(id)).toEqual({ first: 'Ada', last: 'Lovelace' });
  });

  it('a class that its app does not name stays refused', async () => {
    const { sessions } = openCore<object>();
    await expect(sessions.create({ who: ada })).rejects.toThrow(SessionDataError);
  });
});

describe('dataClass: a class whose constructor takes nothing', () => {
  const counters = (shared?: Parameters<typeof openCore>[1]) => open<Counter & Data>(Counter, shared);

  it('gets the stored fields after its own defaults', async () => {
    const { sessions } = counters();
    const { token } = await sessions.create({ count: 3, extra: [1] } as unknown as Counter & Data);
    const { data } = await mustLoad(sessions, token);
    expect(Object.fromEntries(Object.entries(data))).toEqual({ count: 3, theme: 'light', extra: [1] });
    expect(data.isEmpty).toBe(false);
  });

  it('keeps private fields to the instance', async () => {
    const { sessions, stored } = counters();
    const session = await sessions.create(new Counter() as Counter & Data);
    expect([session.data.see(), session.data.see()]).toEqual([1, 2]);
    await session.save();
    expect(await stored(session.id)).toEqual({ count: 0, theme: 'light' });
    expect((await mustLoad(sessions, session.token)).data.see()).toBe(1);
  });

  it('save() of an unchanged session writes nothing, though the class has defaults that are not stored', async () => {
    const { sessions, stored, store } = counters();
    const { id, token } = await sessions.create({} as Counter & Data);
    const { version } = (await store.get(id))!.record;
    const session = await mustLoad(sessions, token);
    expect(session.data.count).toBe(0);
    await session.save();
    expect((await store.get(id))!.record.version).toBe(version);
    expect(await stored(id)).toEqual({});
  });

  it('save() of one field neither overwrites a field that another process wrote, nor undoes it by a default', async () => {
    const one = counters();
    const other = counters({ store: one.store, clock: one.clock });
    const { id, token } = await one.sessions.create({} as Counter & Data);
    const session = await mustLoad(one.sessions, token);
    expect(session.data.theme).toBe('light');
    await other.sessions.update(token, { theme: 'dark' });
    session.data.count = 7;
    await session.save();
    expect(await one.stored(id)).toEqual({ theme: 'dark', count: 7 });
    expect(Object.fromEntries(Object.entries(session.data))).toEqual({ theme: 'dark', count: 7 });
  });

  it('set(), delete() and update() of a patch change the field they name and store no defaults', async () => {
    const { sessions, stored } = counters();
    const session = await sessions.create({} as Counter & Data);
    expect(session.data.count).toBe(0);
    await session.set('color', 'red');
    expect(await stored(session.id)).toEqual({ color: 'red' });
    await session.update({ count: 2 });
    expect(await stored(session.id)).toEqual({ color: 'red', count: 2 });
    await session.delete('color');
    expect(await stored(session.id)).toEqual({ count: 2 });
    expect(session.data).toBeInstanceOf(Counter);
    expect(session.data.count).toBe(2);
  });

  it('a field set back to its default after it was stored is saved', async () => {
    const { sessions, stored } = counters();
    const session = await sessions.create({ count: 5 } as Counter & Data);
    session.data.count = 0;
    await session.save();
    expect((await stored(session.id)).count).toBe(0);
  });

  it('a default that was deleted from the draft is gone from what is stored too', async () => {
    const { sessions, stored } = counters();
    const session = await sessions.create({ count: 5, theme: 'dark' } as unknown as Counter & Data);
    delete session.data.theme;
    await session.save();
    expect(await stored(session.id)).toEqual({ count: 5 });
  });
});

describe('dataClass: fields and accessors of one name', () => {
  it('a stored field does not hide a getter, and goes through a setter', async () => {
    const { sessions, store, cache, clock } = open<Person>(Person);
    const { id, token } = await sessions.create(new Person({ first: 'Ada' }));
    // As an earlier release of the app, with plain data, may have stored it.
    const base = (await store.get(id))!.record;
    const data = defaultCodec.encode({ initials: 'XX', full: 'Grace Hopper', greet: 'text' });
    await store.set({ base, data, keepExpiry: true });
    cache.clear();
    clock.advance(1);
    const session = await mustLoad(sessions, token);
    expect(session.data.initials).toBe('GH');
    expect(session.data.full).toBe('Grace Hopper');
    expect(Object.keys(session.data)).not.toContain('initials');
  });

  it('such a field is no change: save() writes nothing', async () => {
    const { sessions, store, cache } = open<Person>(Person);
    const { id, token } = await sessions.create(new Person({ first: 'Ada' }));
    const base = (await store.get(id))!.record;
    await store.set({ base, data: defaultCodec.encode({ initials: 'XX' }), keepExpiry: true });
    cache.clear();
    const session = await mustLoad(sessions, token);
    expect(session.data.initials).toBe('N');
    const { version } = (await store.get(id))!.record;
    await session.save();
    expect((await store.get(id))!.record.version).toBe(version);
  });

  it('fields another process wrote do not hide the getters of a draft that is already there', async () => {
    const one = open<Person>(Person);
    const plain = openCore<Data>({}, { store: one.store, clock: one.clock });
    const { token } = await one.sessions.create(new Person({ first: 'Ada', last: 'Lovelace' }));
    const session = await mustLoad(one.sessions, token);
    expect(session.data.initials).toBe('AL');
    await plain.sessions.update(token, { initials: 'XX' });
    session.data.views = 1;
    await session.save();
    expect(session.data.initials).toBe('AL');
    await plain.sessions.update(token, { initials: 'YY' });
    await session.update({ views: 2 });
    expect(session.data.initials).toBe('AL');
  });

  it('a field named __proto__ stays data', async () => {
    const { sessions, stored } = open<Data>(Counter);
    const hostile = JSON.parse('{"__proto__": {"isAdmin": true}, "count": 1}') as Data;
    const { id, token } = await sessions.create(hostile);
    const { data } = await mustLoad(sessions, token);
    expect(Object.getPrototypeOf(data)).toBe(Counter.prototype);
    expect(Object.hasOwn(data, '__proto__')).toBe(true);
    expect(data.isAdmin).toBeUndefined();
    expect(Object.keys(await stored(id)).toSorted()).toEqual(['__proto__', 'count']);
  });

  it('a field named __proto__ stays data for a class that assigns what it is given', async () => {
    class Assigning {
      constructor(fields: Data) {
        Object.assign(this, fields);
      }
    }
    const { sessions } = open<Data>(Assigning);
    const hostile = JSON.parse('{"__proto__": {"isAdmin": true}, "count": 1}') as Data;
    const { token } = await sessions.create(hostile);
    const { data } = await mustLoad(sessions, token);
    expect(Object.getPrototypeOf(data)).toBe(Assigning.prototype);
    expect(data.isAdmin).toBeUndefined();
  });
});

describe('dataClass: what cannot be stored', () => {
  it('a function that is a field of the instance is refused, naming it', async () => {
    class WithCallback {
      count = 1;
      readonly onChange = () => this.count;
    }
    const { sessions } = open<object>(WithCallback);
    const error = await sessions.create(new WithCallback()).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SessionDataError);
    expect(error).toMatchObject({ field: 'onChange' });
    expect((error as Error).message).toContain('"onChange"');
  });

  it('an instance inside the data is refused like any class', async () => {
    const { sessions } = open<object>(Person);
    const error = await sessions.create({ owner: new Person({}) }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ name: 'SessionDataError', field: 'owner' });
  });

  it('a constructor that throws rejects with its own error', async () => {
    class Strict {
      constructor({ count }: Data) {
        if (count === undefined) throw new RangeError('no count');
      }
    }
    const { sessions } = open<Data>(Strict);
    const { token } = await sessions.create({ count: 1 });
    expect((await mustLoad(sessions, token)).data.count).toBe(1);
    const { token: other } = await sessions.create({});
    const reading = async () => (await mustLoad(sessions, other)).data;
    await expect(reading()).rejects.toThrow(RangeError);
  });
});

describe('dataClass: drafts and writes at once', () => {
  /** Its defaults are own fields of every instance, and stored only by a write. */
  class Views {
    views = 0;
    constructor(fields: Record<string, unknown>) {
      Object.assign(this, fields);
    }
    get double(): number {
      return this.views * 2;
    }
  }
  type Fields = Views & Record<string, unknown>;

  it('set() of another field leaves the class’s defaults in the draft', async () => {
    const { sessions, stored } = open<Fields>(Views);
    const { token, id } = await sessions.create({ a: 1 } as unknown as Fields);
    const session = await mustLoad(sessions, token);
    expect(session.data.views).toBe(0);
    await session.set('b', 2);
    expect(session.data.views).toBe(0);
    session.data.views++;
    await session.save();
    expect(await stored(id)).toEqual({ a: 1, b: 2, views: 1 });
  });

  it('update() leaves unsaved changes of defaults unsaved and unchanged', async () => {
    const { sessions } = open<Fields>(Views);
    const { token } = await sessions.create({ a: 1 } as unknown as Fields);
    const session = await mustLoad(sessions, token);
    session.data.views = 7;
    await session.update((data) => {
      data.name = 'Ada';
    });
    expect(session.data).toMatchObject({ views: 7, name: 'Ada' });
  });

  it('save() after another’s write keeps defaults, own changes and theirs', async () => {
    const first = open<Fields>(Views);
    const second = open<Fields>(Views, { clock: first.clock, store: first.store });
    const { token } = await first.sessions.create({ a: 1 } as unknown as Fields);
    const session = await mustLoad(first.sessions, token);
    session.data.a = 2;
    await (await mustLoad(second.sessions, token)).set('b', 3);
    await session.save();
    expect(Object.fromEntries(Object.entries(session.data))).toEqual({ a: 2, b: 3, views: 0 });
    expect(session.data).toBeInstanceOf(Views);
  });

  it('get() of a getter’s name is what the getter says; of a method’s, nothing', async () => {
    const { sessions } = open<Fields>(Views);
    const { token } = await sessions.create({ views: 21 } as unknown as Fields);
    const session = await mustLoad(sessions, token);
    expect(session.get('double')).toBe(42);
    expect(session.get('toString')).toBeUndefined();
    expect(session.get('constructor')).toBeUndefined();
  });

  it('an assignment to data makes it an instance', async () => {
    const { sessions } = open<Fields>(Views);
    const { token } = await sessions.create({} as Fields);
    const session = await mustLoad(sessions, token);
    session.data = { views: 4 } as Fields;
    expect(session.data.double).toBe(8);
  });

  it('a constructor that throws fails whoever asks for the data, not the read of the session', async () => {
    class Picky {
      constructor(fields: Record<string, unknown>) {
        if (fields.old === true) throw new RangeError('of an old release');
      }
    }
    const plain = openCore();
    const { token } = await plain.sessions.create({ old: true });
    const { sessions } = open<Data>(Picky, { clock: plain.clock, store: plain.store });
    const session = await mustLoad(sessions, token);
    expect(session.valid).toBe(true);
    expect(() => session.data).toThrow(RangeError);
  });
});

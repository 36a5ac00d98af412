// Sign-ins of a user who may have only so many sessions, within one process: one after the other.
import { describe, expect, it } from 'vitest';
import { deferred, openCore } from '../harness.js';

describe('sign-ins of one user at the same time, with maxSessionsPerUser', () => {
  it('one that waits longer than commandTimeout for those before it: refused, naming the option; nobody else waits', async () => {
    const { sessions, registry, store } = openCore({ maxSessionsPerUser: 2, commandTimeout: '100ms' });
    const create = store.create.bind(store);
    const held = deferred<void>();
    store.create = async (session) => {
      store.create = create;
      await held.promise;
      return create(session);
    };
    const first = sessions.create({}, { userId: 'ann' });
    const visitor = await sessions.create({ basket: 1 });
    const refused = {
      code: 'SESSION_STORE_UNAVAILABLE',
      outcomeUnknown: false,
      message: expect.stringMatching(/create a session: .*\(option "maxSessionsPerUser"\).* within 100 ms/),
    };
    await expect(sessions.create({}, { userId: 'ann' })).rejects.toMatchObject(refused);
    await expect(sessions.login(visitor, 'ann')).rejects.toMatchObject(refused);
    expect((await sessions.create({}, { userId: 'bob' })).userId).toBe('bob');
    held.resolve();
    await first;
    // The refused ones are not made later.
    await sessions.login(visitor, 'ann');
    expect(await registry.countForUser('ann')).toBe(2);
    expect(visitor.data).toEqual({ basket: 1 });
  });
});

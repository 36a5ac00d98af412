// `userIdFrom` outside of requests: no write may change whose session it is without a new token.
import { describe, expect, it } from 'vitest';
import { mustLoad, openCore, type Data } from '../harness.js';

type Core = ReturnType<typeof openCore>;

const OPTIONS = {
  expressView: true,
  userIdFrom: (data: object) => (data as { user?: string | number }).user,
} as const;

const WRITES: [string, (core: Core, token: string, data: Data) => Promise<unknown>][] = [
  ['SessionService.update() with a patch', ({ sessions }, token, data) => sessions.update(token, data)],
  [
    'SessionService.update() with a function',
    ({ sessions }, token, data) => sessions.update(token, (draft) => void Object.assign(draft, data)),
  ],
  ['SessionService.replace()', ({ sessions }, token, data) => sessions.replace(token, data)],
  [
    'set()',
    async ({ sessions }, token, { user }) =>
      (await mustLoad(sessions, token)).set('user' as never, user as never),
  ],
  [
    'update()',
    async ({ sessions }, token, data) =>
      (await mustLoad(sessions, token)).update((draft) => void Object.assign(draft, data)),
  ],
  [
    'save()',
    async ({ sessions }, token, data) => {
      const session = await mustLoad(sessions, token);
      Object.assign(session.data, data);
      await session.save();
    },
  ],
];

describe('data that would change whose session it is, outside of its request', () => {
  it.each(WRITES)('%s: refused, naming "change", and nothing is stored', async (_, write) => {
    for (const userId of [undefined, 'ann']) {
      const core = openCore(OPTIONS);
      const session = await core.sessions.create({ n: 1, ...(userId && { user: userId }) }, { userId });
      const before = await core.store.get(session.id);
      await expect(write(core, session.token, { user: 'eve' })).rejects.toMatchObject({
        code: 'SESSION_ARGUMENT',
        argument: 'change',
      });
      expect(await core.store.get(session.id)).toEqual(before);
      expect(await core.registry.getUserSessions('eve')).toEqual([]);
    }
  });

  it.each(WRITES)('%s that leaves it whose it is: stored', async (_, write) => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ n: 1, user: 7 }, { userId: '7' });
    await write(core, session.token, { user: 7, n: 2 });
    expect((await mustLoad(core.sessions, session.token)).userId).toBe('7');
  });

  it.each([
    ['a patch', { user: 'eve' }],
    ['a function', (data: Data) => void (data['user'] = 'eve')],
  ])('SessionRegistry.updateUser() with %s: refused likewise', async (_, change) => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ n: 1, user: 'ann' }, { userId: 'ann' });
    const before = await core.store.get(session.id);
    await expect(core.registry.updateUser('ann', change)).rejects.toMatchObject({
      code: 'SESSION_ARGUMENT',
      argument: 'change',
    });
    expect(await core.store.get(session.id)).toEqual(before);
    expect(await core.registry.getUserSessions('eve')).toEqual([]);
  });

  it('SessionRegistry.updateUser() that leaves them whose they are: stored', async () => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ n: 1, user: 7 }, { userId: '7' });
    expect(await core.registry.updateUser('7', { user: 7, n: 2 })).toBe(1);
    expect((await mustLoad(core.sessions, session.token)).data).toEqual({ n: 2, user: 7 });
  });

  it('a write that says whose it is already is stored, and so is one to a session that login() gave somebody', async () => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ n: 1 }, { userId: 'ann' });
    await core.sessions.update(session.token, { n: 2 });
    await core.sessions.update(session.token, { user: 'ann' });
    expect((await mustLoad(core.sessions, session.token)).data).toEqual({ n: 2, user: 'ann' });
  });

  it('clear() and delete() of a user’s session would make it nobody’s: refused', async () => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ user: 'ann' }, { userId: 'ann' });
    await expect(session.clear()).rejects.toMatchObject({ argument: 'change' });
    await expect(session.delete('user')).rejects.toMatchObject({ argument: 'change' });
    expect((await mustLoad(core.sessions, session.token)).data).toEqual({ user: 'ann' });
  });

  it('regenerate() and login() change it, with a new token', async () => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ n: 1 });
    const { token } = session;
    await core.sessions.login(session, 'eve');
    await session.set('user', 'eve');
    expect(await core.sessions.get(token)).toBeNull();
    expect(await core.registry.getUserSessions('eve')).toHaveLength(1);
  });
});

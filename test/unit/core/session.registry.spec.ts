import { describe, expect, it, vi } from 'vitest';
import { SessionNotReplicatedError } from '../../../lib/errors/state.errors.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { ManualClock } from '../../support/manual-clock.js';
import { openCore, SECOND } from '../harness.js';

async function threeOfAnn() {
  const core = openCore();
  const made = [];
  for (const label of ['phone', 'laptop', 'tablet']) {
    made.push(await core.sessions.create({ secret: 'hunter2' }, { userId: 'ann', metadata: { label } }));
    core.clock.advance(SECOND);
  }
  const [phone, laptop, tablet] = made as [(typeof made)[0], (typeof made)[0], (typeof made)[0]];
  return { ...core, phone: phone!, laptop: laptop!, tablet: tablet! };
}

describe('SessionRegistry.getUserSessions', () => {
  it('lists the user’s sessions, most recently used first, with metadata and times', async () => {
    const { registry, clock, phone, laptop, tablet } = await threeOfAnn();
    clock.advance(60 * SECOND);
    await phone.touch();
    const listed = await registry.getUserSessions('ann');
    expect(listed.map(({ metadata }) => metadata.label)).toEqual(['phone', 'tablet', 'laptop']);
    expect(listed[0]).toEqual({
      id: phone.id,
      userId: 'ann',
      createdAt: phone.createdAt,
      lastAccess: clock.wall(),
      expiresAt: clock.wall() + 30 * 60 * SECOND,
      idle: 0,
      metadata: { label: 'phone' },
    });
    expect(listed.map(({ idle }) => idle)).toEqual([0, 61 * SECOND, 62 * SECOND]);
    expect(listed.map(({ id }) => id)).toEqual([phone.id, tablet.id, laptop.id]);
  });

  it('shows neither tokens nor data', async () => {
    const { registry, phone } = await threeOfAnn();
    const text = JSON.stringify(await registry.getUserSessions('ann'));
    expect(text).not.toContain(phone.token);
    expect(text).not.toContain('hunter2');
  });

  it('leaves out expired sessions and those of others; an immortal one has expiresAt null', async () => {
    const { registry, sessions, clock } = await threeOfAnn();
    await sessions.create({}, { userId: 'ann!' });
    const immortal = await sessions.create({}, { userId: 'ann', idleTimeout: 0, absoluteTimeout: 0 });
    clock.advance(30 * 60 * SECOND);
    const listed = await registry.getUserSessions('ann');
    expect(listed).toMatchObject([{ id: immortal.id, expiresAt: null }]);
    expect(await registry.getUserSessions('nobody')).toEqual([]);
  });

  it.each([undefined, null, 5, '', 'x'.repeat(256), '\ud800'])('refuses the userId %j', async (userId) => {
    const { registry } = openCore();
    const refused = expect.objectContaining({ code: 'SESSION_ARGUMENT', argument: 'userId' });
    await expect(registry.getUserSessions(userId as string)).rejects.toEqual(refused);
    await expect(registry.killUser(userId as string)).rejects.toEqual(refused);
  });

  it('refuses, naming the store, where the store keeps no index of users', async () => {
    class BareStore extends MemorySessionStore {
      override readonly capabilities = { versions: true, index: false, exclusive: true } as never;
    }
    const { registry } = openCore({}, { store: new BareStore() });
    await expect(registry.getUserSessions('ann')).rejects.toThrow(/BareStore keeps no index.*Use Redis/);
    await expect(registry.killUser('ann')).rejects.toMatchObject({ argument: 'store' });
  });
});

describe('SessionRegistry.kill', () => {
  it('ends the session, for the near cache too, and is true once', async () => {
    const { registry, sessions, phone, laptop, said } = await threeOfAnn();
    expect(await sessions.get(phone.token)).not.toBeNull();
    expect(await registry.kill(phone.id)).toBe(true);
    expect(await sessions.get(phone.token)).toBeNull();
    expect(await sessions.get(laptop.token)).not.toBeNull();
    expect(await registry.kill(phone.id)).toBe(false);
    expect(said('destroyed')).toMatchObject([{ id: phone.id, reason: 'killed' }]);
  });

  it('is false for an unknown or malformed id, and asks the store only about what can be one', async () => {
    const { registry, store, phone } = await threeOfAnn();
    const destroy = vi.spyOn(store, 'destroy');
    for (const id of ['', 'x', phone.token, `${phone.id}A`, '_'.repeat(23), '\0', 'A'.repeat(1e6)])
      expect(await registry.kill(id)).toBe(false);
    expect(destroy).not.toHaveBeenCalled();
    expect(await registry.kill('A'.repeat(23))).toBe(false);
    expect(destroy).toHaveBeenCalledTimes(1);
  });

  it('refuses what is no string', async () => {
    const { registry } = openCore();
    for (const id of [undefined, null, 5, ['A'.repeat(23)]])
      await expect(registry.kill(id as never)).rejects.toMatchObject({ argument: 'id' });
  });
});

describe('SessionRegistry.killUser', () => {
  it('ends all sessions of the user and of nobody else, and tells how many', async () => {
    const { registry, sessions, phone, said } = await threeOfAnn();
    const bob = await sessions.create({}, { userId: 'bob' });
    expect(await registry.killUser('ann')).toBe(3);
    expect(await registry.getUserSessions('ann')).toEqual([]);
    expect(await sessions.get(phone.token)).toBeNull();
    expect(await sessions.get(bob.token)).not.toBeNull();
    expect(await registry.killUser('ann')).toBe(0);
    expect(said('destroyed')).toHaveLength(3);
    expect(said('destroyed').every(({ reason, userId }) => reason === 'killed' && userId === 'ann')).toBe(
      true,
    );
  });

  it('spares the sessions named by except: one id or several', async () => {
    const { registry, sessions, phone, laptop, tablet } = await threeOfAnn();
    expect(await registry.killUser('ann', { except: [phone.id, laptop.id, 'unknown'] })).toBe(1);
    expect(await sessions.get(tablet.token)).toBeNull();
    expect(await registry.killUser('ann', { except: phone.id })).toBe(1);
    expect((await registry.getUserSessions('ann')).map(({ id }) => id)).toEqual([phone.id]);
  });

  it('also ends a session that is regenerated while it runs: a new id is no way out', async () => {
    const { registry, sessions, store, phone } = await threeOfAnn();
    const list = store.userSessions.bind(store);
    let escaped: string | undefined;
    vi.spyOn(store, 'userSessions').mockImplementation(async (userId) => {
      const listed = await list(userId);
      escaped ??= (await phone.regenerate()).token;
      return listed;
    });
    expect(await registry.killUser('ann')).toBe(3);
    expect(await sessions.get(escaped)).toBeNull();
    expect(await registry.getUserSessions('ann')).toEqual([]);
  });

  it('leaves sessions alone that were created after it began', async () => {
    const { registry, sessions, store, clock } = await threeOfAnn();
    const list = store.userSessions.bind(store);
    let later: string | undefined;
    vi.spyOn(store, 'userSessions').mockImplementation(async (userId) => {
      const listed = await list(userId);
      clock.advance(1);
      later ??= (await sessions.create({}, { userId: 'ann' })).token;
      return listed;
    });
    expect(await registry.killUser('ann')).toBe(3);
    expect(await sessions.get(later)).not.toBeNull();
  });

  it("ends sessions whose time of creation lies ahead of the store's clock, which may have been set back", async () => {
    const { registry, sessions, clock } = await threeOfAnn();
    const { token } = await sessions.create({}, { userId: 'ann' });
    clock.advance(-5_000);
    expect(await registry.killUser('ann')).toBe(4);
    expect(await sessions.get(token)).toBeNull();
  });

  it('refuses an option it does not know, instead of killing what was to be spared', async () => {
    const { registry, phone } = await threeOfAnn();
    const misspelt = { exept: phone.id } as object;
    await expect(registry.killUser('ann', misspelt)).rejects.toThrow(/exept.*Known: except/);
    expect(await registry.getUserSessions('ann')).toHaveLength(3);
  });
});

describe('SessionRegistry.killUser() where replicas do not confirm', () => {
  /** Ends sessions, says that no replica has it, and lets one be made in between, as a regeneration would. */
  class Unconfirmed extends MemorySessionStore {
    meanwhile: (() => Promise<unknown>) | undefined;
    override async destroyMany(ids: readonly string[]): Promise<readonly string[]> {
      const ended = await super.destroyMany(ids);
      await this.meanwhile?.();
      this.meanwhile = undefined;
      throw new SessionNotReplicatedError(ended, 0, 1, 300);
    }
  }

  it('ends those too that came under a new id meanwhile, and rejects once, naming them all', async () => {
    const clock = new ManualClock();
    const store = new Unconfirmed({ clock });
    const { sessions, registry, said } = openCore({}, { clock, store });
    const ids = [
      (await sessions.create({}, { userId: 'ada' })).id,
      (await sessions.create({}, { userId: 'ada' })).id,
    ];
    store.meanwhile = async () => ids.push((await sessions.create({}, { userId: 'ada' })).id);
    const error: unknown = await registry.killUser('ada').catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(SessionNotReplicatedError);
    expect((error as SessionNotReplicatedError).ended.toSorted()).toEqual(ids.toSorted());
    expect(await registry.getUserSessions('ada')).toEqual([]);
    expect(said('destroyed')).toHaveLength(3);
  });
});

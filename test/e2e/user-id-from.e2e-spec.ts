// `userIdFrom`: whichever way changes are saved, a session is another user's only with a new token and in that user's list.
import 'reflect-metadata';
import { Controller, Get } from '@nestjs/common';
import { describe, expect, it } from 'vitest';
import { Session, type ActiveSession } from '../../lib/index.js';
import { CookieJar } from './support/http-client.js';
import { countOf, EVERYWHERE, startView, storedOf, withSession, type View } from './support/view-app.js';

type Fields = Record<string, unknown> & { passport?: { user?: string } };

@Controller('become')
class BecomeController {
  @Get('save')
  async save(@Session() session: ActiveSession<Fields>) {
    session.data.passport = { user: 'eve' };
    await session.save();
    return { userId: session.userId };
  }

  @Get('leave')
  leave(@Session() session: ActiveSession<Fields>) {
    session.data.passport = { user: 'eve' };
    return {};
  }

  @Get('set')
  async set(@Session() session: ActiveSession<Fields>) {
    await session.set('passport', { user: 'eve' });
    return {};
  }

  @Get('update')
  async update(@Session() session: ActiveSession<Fields>) {
    await session.update((data) => void (data.passport = { user: 'eve' }));
    return {};
  }

  @Get('set-other')
  async setOther(@Session() session: ActiveSession<Fields>) {
    await session.set('views', 1);
    return {};
  }
}

const userIdFrom = (data: object) => (data as Fields).passport?.user;

describe.each(EVERYWHERE)('userIdFrom over %s and %s', (platform, store) => {
  const start = () =>
    startView(platform, store, { session: { userIdFrom }, controllers: [BecomeController] });

  it.each(['save', 'leave'])(
    'data of @Session() by %s: a new token, the user’s list, and what was planted is worth nothing',
    async (way) => {
      const app = await start();
      const planted = new CookieJar(app.url).set('sid', (await app.sessions.create({ name: 'cart' })).token);
      const victim = planted.at(app.url);
      const answer = await victim.ask(`/become/${way}`);
      expect([answer.status, answer.cookies.length]).toEqual([200, 1]);
      if (way === 'save') expect(answer.body).toEqual({ userId: 'eve' });
      expect(await storedOf(app, victim)).toMatchObject({ userId: 'eve', data: { name: 'cart' } });
      expect(await storedOf(app, planted)).toBeNull();
      expect(await countOf(app)).toBe(1);
      expect(await app.registry.killUser('eve')).toBe(1);
      expect(await storedOf(app, victim)).toBeNull();
    },
  );

  it('of a visitor who has none: stored as the user’s, and listed', async () => {
    const app = await start();
    const jar = new CookieJar(app.url);
    expect((await jar.ask('/become/save')).body).toEqual({ userId: 'eve' });
    expect(await app.registry.getUserSessions('eve')).toHaveLength(1);
  });

  it.each(['set', 'update'])(
    '%s() that would change whose it is: 500, nothing stored, and the log says so',
    async (way) => {
      const app = await start();
      for (const owned of [false, true]) {
        const data = owned ? { name: 'cart', passport: { user: 'ann' } } : { name: 'cart' };
        const made = await app.sessions.create(data, owned ? { userId: 'ann' } : {});
        const jar = new CookieJar(app.url).set('sid', made.token);
        const answer = await jar.ask(`/become/${way}`);
        expect([answer.status, answer.cookies]).toEqual([500, []]);
        expect(await storedOf(app, jar)).toMatchObject({ id: made.id, userId: owned ? 'ann' : null, data });
        expect((await jar.ask('/become/set-other')).status).toBe(200); // others are as ever
      }
      expect(app.logs.matching(/^error.*"change" would change whose session it is/s)).toHaveLength(2);
      expect(await app.registry.getUserSessions('eve')).toEqual([]);
      // Of a visitor without a session, too.
      const visitor = new CookieJar(app.url);
      expect((await visitor.ask(`/become/${way}`)).status).toBe(500);
      expect([visitor.value(), await countOf(app)]).toEqual([undefined, 2]);
    },
  );

  it('what is somebody’s by its data and nobody’s by its owner becomes that user’s at the next save', async () => {
    const app = await start();
    const made = await app.sessions.create({ name: 'x', passport: { user: 'ann' } } as never);
    const jar = new CookieJar(app.url).set('sid', made.token);
    await withSession(jar, (session) => {
      session.views = 1;
    });
    expect(await storedOf(app, jar)).toMatchObject({ userId: 'ann', data: { name: 'x', views: 1 } });
    expect(await app.registry.getUserSessions('ann')).toHaveLength(1);
    expect(await app.sessions.get(made.token, { fresh: true })).toBeNull();
  });

  const ofAlice = { passport: { user: 'alice' }, recent: ['a page of alice’s'], theme: 'dark' };

  it.each<[string, (session: View) => unknown, object]>([
    [
      'a change inside of a field, and another user',
      (session) => {
        (session.recent as string[]).push('switch');
        session.fresh = 1;
        session.passport = { user: 'bob' };
      },
      { fresh: 1, passport: { user: 'bob' } },
    ],
    [
      'a field put in place of another one, and another user',
      (session) => {
        session.theme = 'light';
        session.passport!.user = 'bob';
      },
      { passport: { user: 'bob' } },
    ],
  ])('%s: only what the first one had not goes over', async (_, change, data) => {
    const app = await start();
    const made = await app.sessions.create(ofAlice as never, { userId: 'alice' });
    const jar = new CookieJar(app.url).set('sid', made.token);
    expect((await withSession(jar, change)).status).toBeLessThan(300);
    expect(await storedOf(app, jar)).toMatchObject({ userId: 'bob' });
    expect((await storedOf(app, jar))?.data).toEqual(data);
    expect(await app.registry.getUserSessions('alice')).toEqual([]);
    expect(await app.sessions.get(made.token, { fresh: true })).toBeNull();
  });

  it('signed out by delete: nothing of the user’s is left to nobody', async () => {
    const app = await start();
    const made = await app.sessions.create(ofAlice as never, { userId: 'alice' });
    const jar = new CookieJar(app.url).set('sid', made.token);
    await withSession(jar, (session) => {
      (session.recent as string[]).push('out');
      delete session.passport;
    });
    expect((await storedOf(app, jar))?.data ?? {}).toEqual({});
    expect((await withSession(jar, (session) => ({ ...session }))).body).toEqual({});
    expect(await app.registry.getUserSessions('alice')).toEqual([]);
    expect(await app.sessions.get(made.token, { fresh: true })).toBeNull();
  });
});

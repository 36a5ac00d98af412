// `rotateEvery` over HTTP: the response to a request replaces a token that has served long enough.
import 'reflect-metadata';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { ActiveSession, SessionModuleOptions } from '../../lib/index.js';
import { testRedisUrl } from '../support/redis-url.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { ask, CookieJar, cookieOf } from './support/http-client.js';
import { EVERYWHERE, gate, startRotating, tokensOf, UNAVAILABLE, withSid } from './support/rotating-app.js';
import type { Data } from './support/test-app.js';
import { onRedis } from './support/test-redis.js';
import { waysOf } from './support/ways.js';
import { WrappedStore } from './support/wrapped-store.js';

describe.each(EVERYWHERE)('rotateEvery over %s and %s', (platform, store) => {
  it('a request with an old token gets a new one; user, data, creation and absolute deadline stay', async () => {
    const app = await startRotating(platform, store, { idleTimeout: 0 });
    const { token, id, record } = await app.aged();
    const answer = await ask(`${app.url}/look`, withSid(token));
    expect(answer.status).toBe(200);
    expect(answer.cookies).toHaveLength(1);
    expect(answer.headers['cache-control']).toBe('no-store');
    const next = cookieOf(answer);
    expect(next).toMatch(/^[\w-]{44}$/);
    expect(next).not.toBe(token);
    expect(await app.stored(token)).toBeNull();
    const stored = await app.stored(next);
    const { createdAt, absoluteDeadline } = record;
    expect(stored).toMatchObject({
      userId: 'ann',
      createdAt,
      expiresAt: absoluteDeadline,
      data: { name: 'Ada' },
    });
    expect(stored!.id).not.toBe(id);
    expect(await app.store.length()).toBe(1);
    const [info] = await app.registry.getUserSessions('ann');
    expect(info).toMatchObject({ id: stored!.id, createdAt });
    expect(Math.abs(info!.metadata.rotatedAt! - Date.now())).toBeLessThan(10_000);
  });

  it('the next requests keep the new token, until that is old', async () => {
    const app = await startRotating(platform, store);
    const jar = new CookieJar(app.url).set('sid', (await app.aged()).token);
    expect((await jar.ask('/look')).cookies).toHaveLength(1);
    const token = jar.value();
    for (const path of ['/look', '/guarded', '/strict', '/set/one', '/look']) {
      const { status, cookies } = await jar.ask(path);
      expect([status, cookies], path).toEqual([200, []]);
    }
    app.cache.clear();
    expect((await jar.ask('/look')).cookies).toEqual([]);
    expect(jar.value()).toBe(token);
    expect((await app.stored(token))?.data).toEqual({ name: 'Ada', one: true });
  });

  it('a young token is kept, and a route that asks for no session rotates none', async () => {
    const app = await startRotating(platform, store);
    const { token } = await app.sessions.create({ name: 'Ada' });
    expect((await ask(`${app.url}/look`, withSid(token))).cookies).toEqual([]);
    const aged = await app.aged();
    expect((await ask(`${app.url}/plain`, withSid(aged.token))).cookies).toEqual([]);
    expect((await app.stored(aged.token))?.id).toBe(aged.id);
  });

  it.each(['unused', 'guarded', 'strict', 'look'])('%s rotates', async (path) => {
    const app = await startRotating(platform, store);
    for (const cached of [false, true]) {
      const { token } = await app.aged();
      if (cached) await app.sessions.get(token);
      const answer = await ask(`${app.url}/${path}`, withSid(token));
      expect(answer.status).toBe(200);
      expect(await app.stored(token)).toBeNull();
      expect(await app.stored(cookieOf(answer))).toMatchObject({ userId: 'ann', data: { name: 'Ada' } });
    }
  });

  it('every way of answering: the answer is as it was, changes are saved with it, and the new token told', async () => {
    const app = await startRotating(platform, store);
    for (const { path, method, status, text, name } of waysOf(platform)) {
      const { token } = await app.aged({ userId: name });
      let atFirstByte: ActiveSession<Data> | null = null;
      const answer = await ask(`${app.url}/way/${path}`, {
        ...(method && { method }),
        ...withSid(token),
        onHeaders: async (_incoming, lines) => {
          atFirstByte = await app.stored(cookieOf({ cookies: lines }));
        },
      });
      expect.soft([answer.status, answer.text], name).toEqual([status, text]);
      expect.soft(atFirstByte, name).toMatchObject({ userId: name, data: { name: 'Ada', views: 1 } });
      expect.soft(await app.stored(token), name).toBeNull();
      expect.soft(await app.registry.getUserSessions(name), name).toHaveLength(1);
    }
  });

  it('a request with a bearer token keeps it, and its changes are saved', async () => {
    const app = await startRotating(platform, store);
    const { token, id } = await app.aged();
    const answer = await ask(`${app.url}/set/one`, { headers: { authorization: `Bearer ${token}` } });
    expect([answer.status, answer.cookies]).toEqual([200, []]);
    expect(JSON.stringify(answer.headers)).not.toMatch(/[\w-]{44}/);
    expect(await app.stored(token)).toMatchObject({ id, data: { name: 'Ada', one: true } });
  });

  it('a header transport gets the new token in its header', async () => {
    const app = await startRotating(platform, store, { transport: { header: 'x-auth-token' } });
    const { token } = await app.aged();
    const answer = await ask(`${app.url}/guarded`, { headers: { 'x-auth-token': token } });
    const next = answer.headers['x-auth-token'] as string;
    expect(next).toMatch(/^[\w-]{44}$/);
    expect(next).not.toBe(token);
    expect([answer.status, answer.cookies, answer.headers['cache-control']]).toEqual([200, [], 'no-store']);
    expect(await app.stored(token)).toBeNull();
    const again = await ask(`${app.url}/guarded`, { headers: { 'x-auth-token': next } });
    expect([again.status, again.headers['x-auth-token']]).toEqual([200, undefined]);
  });

  it.each(['0s', '10s'])(
    'rotateGrace %s: destroy() in the same request wins, and the cookie is cleared',
    async (rotateGrace) => {
      const app = await startRotating(platform, store, { rotateGrace });
      const { token } = await app.aged();
      const answer = await ask(`${app.url}/logout`, { method: 'POST', ...withSid(token) });
      expect(answer.status).toBe(201);
      expect(answer.cookies).toEqual([expect.stringMatching(/^sid=;.*Max-Age=0/)]);
      expect(await app.store.length()).toBe(0);
      expect(await app.stored(token)).toBeNull();
    },
  );

  it.each(['login/bob', 'login/ann', 'regenerate'])(
    '%s in the same request: one new token, and the old one reads nothing in spite of rotateGrace',
    async (path) => {
      const app = await startRotating(platform, store, { rotateGrace: '10s' });
      const { token, id } = await app.aged();
      const replaced: string[] = [];
      app.events.on('regenerated', ({ previousId }) => replaced.push(previousId));
      const answer = await ask(`${app.url}/${path}`, { method: 'POST', ...withSid(token) });
      expect([answer.status, answer.cookies.length]).toEqual([201, 1]);
      expect(replaced).toEqual([id]);
      const userId = path === 'login/bob' ? 'bob' : 'ann';
      expect(await app.stored(cookieOf(answer))).toMatchObject({ userId });
      expect(await app.registry.getUserSessions(userId)).toHaveLength(1);
      expect(await app.store.length()).toBe(1);
      expect(await app.stored(token)).toBeNull();
      expect((await ask(`${app.url}/guarded`, withSid(token))).status).toBe(401);
    },
  );

  it('a session that others end meanwhile is not brought back', async () => {
    for (const [path, status] of [
      ['wait', 200],
      ['wait-and-set/x', 401],
    ] as const) {
      const app = await startRotating(platform, store, { rotateGrace: '10s' });
      const { token, id } = await app.aged();
      gate.close();
      const answering = ask(`${app.url}/${path}`, withSid(token));
      await gate.reachedBy(1);
      expect(await app.registry.kill(id)).toBe(true);
      gate.open();
      const answer = await answering;
      expect([answer.status, answer.cookies], path).toEqual([status, []]);
      expect(await app.store.length(), path).toBe(0);
      expect((await ask(`${app.url}/guarded`, withSid(token))).status, path).toBe(401);
    }
  });

  it('when the store is down: a request that only read is answered unchanged unless the rotation may have been done, else by 503', async () => {
    let session: SessionModuleOptions;
    let down: () => unknown;
    let up: () => unknown;
    if (store === 'memory') {
      const wrapped = new WrappedStore({ exclusive: true });
      session = { store: wrapped };
      down = () => (wrapped.down = true);
      up = () => (wrapped.down = false);
    } else {
      const proxy = await TcpProxy.start({ targetPort: Number(new URL(testRedisUrl()).port) });
      onTestFinished(() => proxy.close());
      session = { ...onRedis(), redis: proxy.url, commandTimeout: '300ms' };
      down = () => {
        proxy.refuse(true);
        proxy.cutAll();
      };
      up = () => proxy.refuse(false);
    }
    const app = await startRotating(platform, store, session);
    const [reader, writer] = [await app.aged(), await app.aged()];
    gate.close();
    const answering = Promise.all([
      ask(`${app.url}/wait`, withSid(reader.token)),
      ask(`${app.url}/wait-and-set/x`, withSid(writer.token)),
    ]);
    await gate.reachedBy(2);
    down();
    gate.open();
    const [read, wrote] = await answering;
    // A cut link says nothing of what Redis did: a 200 without the new token could leave the client with a dead one.
    expect([read.status, read.body, read.cookies]).toEqual(
      store === 'Redis' ? [503, UNAVAILABLE, []] : [200, { ok: true }, []],
    );
    expect([wrote.status, wrote.body, wrote.cookies]).toEqual([503, UNAVAILABLE, []]);
    up();
    await waitFor(async () => (await app.stored(reader.token)) !== null);
    expect((await app.stored(writer.token))?.data).toEqual({ name: 'Ada' });
    for (const { token } of [reader, writer]) {
      const answer = await ask(`${app.url}/guarded`, withSid(token));
      expect([answer.status, tokensOf([answer]).length]).toEqual([200, 1]);
    }
  });

  it.skipIf(store === 'memory').each(['0s', '10s'])(
    'rotateGrace %s: a rotation that Redis does, but does not answer in time, is 503, not a 200 without the new token',
    async (rotateGrace) => {
      const proxy = await TcpProxy.start({ targetPort: Number(new URL(testRedisUrl()).port) });
      onTestFinished(() => proxy.close());
      const session = { ...onRedis(), redis: proxy.url, commandTimeout: '300ms', rotateGrace } as const;
      const app = await startRotating(platform, store, session);
      const { token } = await app.aged();
      gate.close();
      const answering = ask(`${app.url}/wait`, withSid(token));
      await gate.reachedBy(1);
      proxy.blackhole({ downstream: true }); // commands arrive, their answers do not
      gate.open();
      const answer = await answering;
      expect([answer.status, answer.body, answer.cookies]).toEqual([503, UNAVAILABLE, []]);
      proxy.cutAll();
      proxy.resume();
      await waitFor(async () => (await app.store.length().catch(() => 0)) === 1);
    },
  );

  it('a CSRF token that the response hands out is good with the cookie that it sets', async () => {
    const app = await startRotating(platform, store);
    const jar = new CookieJar(app.url).set('sid', (await app.aged()).token);
    const { token } = (await jar.ask('/form')).body as { token: string };
    const answer = await jar.ask('/pay', { method: 'POST', headers: { 'x-csrf-token': token } });
    expect(answer.status).toBe(201);
  });

  it('a sign-in by userIdFrom in the same request makes the session the user’s', async () => {
    const app = await startRotating(platform, store, {
      expressView: true,
      userIdFrom: (data) => (data as { owner?: string }).owner,
      rotateGrace: '10s',
    });
    for (const aged of [false, true]) {
      const made = aged ? await app.aged({ userId: null }) : await app.sessions.create({ name: 'Ada' });
      const answer = await ask(`${app.url}/view-login/bob`, withSid(made.token));
      expect([answer.status, tokensOf([answer]).length]).toEqual([200, 1]);
      expect((await app.stored(cookieOf(answer)))?.userId, `aged: ${aged}`).toBe('bob');
      expect((await app.stored(made.token))?.userId, `aged: ${aged}`).toBeUndefined();
    }
  });

  it('a client that goes away before its answer keeps its token: nobody would be told the new one', async () => {
    const app = await startRotating(platform, store);
    const { token } = await app.aged();
    gate.close();
    const socket = connect(Number(new URL(app.url).port), '127.0.0.1');
    socket.on('error', () => undefined);
    socket.write(`GET /wait HTTP/1.1\r\nHost: x\r\nCookie: sid=${token}\r\n\r\n`);
    await gate.reachedBy(1);
    socket.destroy();
    await sleep(50); // the server has no way to tell that it saw the end
    gate.open();
    await sleep(200); // a negative: nothing is rotated
    expect(await app.stored(token)).not.toBeNull();
  });
});

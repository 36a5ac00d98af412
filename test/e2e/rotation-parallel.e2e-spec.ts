// `rotateGrace` over HTTP: parallel requests of one browser that still carry the old token.
import 'reflect-metadata';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { Duration, SessionModuleOptions } from '../../lib/index.js';
import { waitFor } from '../support/wait-for.js';
import { ask, CookieJar, cookieOf } from './support/http-client.js';
import {
  CONFLICT,
  countOf,
  EVERYWHERE,
  gate,
  MINUTE,
  startRotating,
  tokensOf,
  UNAUTHORIZED,
  withSid,
  type RotatingApp,
} from './support/rotating-app.js';

describe.each(EVERYWHERE)('30 parallel requests with the old cookie over %s and %s', (platform, store) => {
  const PARALLEL = 30;

  /** All of them; with a gate every handler has the session before the first answers. */
  async function askAll(app: RotatingApp, token: string, path: (index: number) => string, gated: boolean) {
    if (gated) gate.close();
    const answering = Promise.all(
      Array.from({ length: PARALLEL }, (_, index) => ask(app.url + path(index), withSid(token))),
    );
    if (gated) {
      await gate.reachedBy(PARALLEL);
      gate.open();
    }
    return answering;
  }

  it.each([
    ['/guarded', false],
    ['/strict', false],
    ['/wait', true],
  ])(
    'with rotateGrace readers (%s) answer 200, one gets the new token, and nobody is signed out',
    async (path, gated) => {
      const app = await startRotating(platform, store, { rotateGrace: '10s' });
      const { token } = await app.aged();
      const answers = await askAll(app, token, () => path, gated);
      expect(countOf(answers, 200)).toBe(PARALLEL);
      expect(answers.flatMap(({ cookies }) => cookies)).toHaveLength(1);
      const [next] = tokensOf(answers);
      // Stragglers still come with the old one.
      const late = await askAll(app, token, () => '/guarded', false);
      expect([countOf(late, 200), late.flatMap(({ cookies }) => cookies)]).toEqual([PARALLEL, []]);
      expect(await app.stored(next)).toMatchObject({ userId: 'ann', data: { name: 'Ada' } });
      expect(await app.store.length()).toBe(1);
    },
  );

  it.each([
    ['/set/', false, 0],
    ['/set/', false, 10 * MINUTE],
    ['/set-now/', false, 0],
    ['/wait-and-set/', true, 0],
    ['/wait-and-set/', true, 10 * MINUTE],
    ['/wait-and-set-now/', true, 0],
  ])(
    'with rotateGrace writers (%s, all at a gate: %s, unused for %i ms) get 200 or 409, and what got 200 is stored',
    async (path, gated, idle) => {
      const app = await startRotating(platform, store, { rotateGrace: '10s' });
      const { token } = await app.aged({ idle });
      const answers = await askAll(app, token, (index) => `${path}k${index}`, gated);
      const refused = answers.filter(({ status }) => status !== 200);
      for (const answer of refused) expect([answer.status, answer.body]).toEqual([409, CONFLICT]);
      expect(refused.length).toBeLessThan(PARALLEL);
      expect(answers.flatMap(({ cookies }) => cookies)).toHaveLength(1);
      const [next] = tokensOf(answers);
      const saved = answers.flatMap(({ status }, index) => (status === 200 ? [[`k${index}`, true]] : []));
      const data = (await app.stored(next))?.data;
      expect(data).toMatchObject(Object.fromEntries(saved));
      expect(Object.keys(data ?? {})).toHaveLength(1 + saved.length); // what got 409 is not
      // A writer that comes later is refused, and its change is nowhere.
      for (const write of ['set', 'set-now']) {
        const late = await ask(`${app.url}/${write}/late`, withSid(token));
        expect([late.status, late.body, late.cookies]).toEqual([409, CONFLICT, []]);
      }
      expect((await app.stored(next))?.data).not.toHaveProperty('late');
    },
  );

  it('signing out by the old cookie within rotateGrace ends the session', async () => {
    const app = await startRotating(platform, store, { rotateGrace: '10s' });
    const { token } = await app.aged();
    const next = cookieOf(await ask(`${app.url}/guarded`, withSid(token)));
    expect(await app.stored(next)).not.toBeNull();
    const answer = await ask(`${app.url}/logout`, { method: 'POST', ...withSid(token) });
    expect(answer.status).toBe(201);
    expect(answer.cookies).toEqual([expect.stringMatching(/^sid=;.*Max-Age=0/)]);
    expect(await app.store.length()).toBe(0);
    for (const one of [token, next!])
      expect((await ask(`${app.url}/guarded`, withSid(one))).status).toBe(401);
  });

  it('when rotateGrace has passed the old cookie is refused', async () => {
    const app = await startRotating(platform, store, { rotateGrace: '400ms' });
    const { token } = await app.aged();
    const rotated = await ask(`${app.url}/guarded`, withSid(token));
    const status = async () => (await ask(`${app.url}/guarded`, withSid(token))).status;
    expect(await status()).toBe(200);
    await waitFor(async () => (await status()) === 401, { timeoutMs: 2_000 });
    expect((await ask(`${app.url}/guarded`, withSid(cookieOf(rotated)!))).status).toBe(200);
  });

  it.each([
    ['/guarded', false],
    ['/strict', false],
    ['/wait', true],
  ])(
    'without rotateGrace readers (%s) answer 200 or 401, and one gets the new token',
    async (path, gated) => {
      const app = await startRotating(platform, store);
      const { token } = await app.aged();
      const answers = await askAll(app, token, () => path, gated);
      for (const { status, body } of answers) if (status !== 200) expect(body).toEqual(UNAUTHORIZED);
      expect(countOf(answers, 200)).toBeGreaterThan(0);
      // Whoever had the session before it was rotated is answered.
      if (gated) expect(countOf(answers, 200)).toBe(PARALLEL);
      // A 401 clears nothing: the browser has the new token by then.
      expect(answers.flatMap(({ cookies }) => cookies)).toHaveLength(1);
      expect(await app.stored(tokensOf(answers)[0])).not.toBeNull();
      expect((await ask(`${app.url}/guarded`, withSid(token))).status).toBe(401);
    },
  );

  it('without rotateGrace writers get 200, 401 or 409, and what got 200 is stored', async () => {
    const app = await startRotating(platform, store);
    const { token } = await app.aged();
    const answers = await askAll(app, token, (index) => `/wait-and-set/k${index}`, true);
    for (const { status, body } of answers)
      if (status !== 200) expect(body).toEqual(status === 409 ? CONFLICT : UNAUTHORIZED);
    expect(countOf(answers, 200)).toBeGreaterThan(0);
    const tokens = tokensOf(answers);
    expect(tokens).toHaveLength(1);
    const saved = answers.flatMap(({ status }, index) => (status === 200 ? [[`k${index}`, true]] : []));
    expect((await app.stored(tokens[0]))?.data).toEqual({ name: 'Ada', ...Object.fromEntries(saved) });
  });
});

describe.each(EVERYWHERE)('the old cookie after a rotation over %s and %s', (platform, store) => {
  const GRACES = ['0s', '10s'];
  const post = { method: 'POST' };

  /** An app, and a token that was rotated away a moment ago. */
  async function startRotated(rotateGrace: string, session: SessionModuleOptions = {}) {
    const app = await startRotating(platform, store, { rotateGrace: rotateGrace as Duration, ...session });
    const { token } = await app.aged();
    const next = cookieOf(await ask(`${app.url}/look`, withSid(token)))!;
    expect(await app.stored(next)).toMatchObject({ userId: 'ann' });
    return { app, token, next };
  }

  it.each(GRACES)(
    'rotateGrace %s: a sign-out that was under way while another request rotated wins',
    async (rotateGrace) => {
      const app = await startRotating(platform, store, { rotateGrace: rotateGrace as Duration });
      const { token } = await app.aged();
      gate.close();
      const leaving = ask(`${app.url}/wait-and-leave`, { ...post, ...withSid(token) });
      await gate.reachedBy(1);
      const next = cookieOf(await ask(`${app.url}/guarded`, withSid(token)))!;
      expect(await app.stored(next)).not.toBeNull();
      gate.open();
      const left = await leaving;
      expect([left.status, left.body]).toEqual([201, { left: 'ann' }]);
      expect(left.cookies).toEqual([expect.stringMatching(/^sid=;.*Max-Age=0/)]);
      for (const one of [token, next]) {
        expect(await app.stored(one)).toBeNull();
        expect((await ask(`${app.url}/guarded`, withSid(one))).status).toBe(401);
      }
      expect(await app.store.length()).toBe(0);
      expect(await app.registry.getUserSessions('ann')).toEqual([]);
    },
  );

  it.each(GRACES)(
    'rotateGrace %s: a sign-out that comes with it a moment later wins too',
    async (rotateGrace) => {
      const { app, token, next } = await startRotated(rotateGrace);
      const left = await ask(`${app.url}/wait-and-leave`, { ...post, ...withSid(token) });
      expect(left.status).toBe(201);
      expect(await app.stored(next)).toBeNull();
      expect(await app.store.length()).toBe(0);
    },
  );

  it.each(
    GRACES.flatMap((grace) => ['set/x', 'set-now/x', 'form', 'view'].map((path) => [grace, path] as const)),
  )(
    'rotateGrace %s: %s of one who is nobody by it begins no session that would replace the new cookie',
    async (rotateGrace, path) => {
      const { app, token, next } = await startRotated(rotateGrace, { expressView: true });
      const jar = new CookieJar(app.url).set('sid', token);
      const answer = await jar.ask(path === 'view' ? '/view-login/bob' : `/${path}`);
      // Within rotateGrace it reads, and a form is only read.
      const reads = rotateGrace !== '0s' && path === 'form';
      if (!reads) expect([answer.status, answer.body]).toEqual([409, CONFLICT]);
      expect(answer.cookies).toEqual([]);
      expect(await app.store.length()).toBe(1);
      expect(await app.stored(next)).toMatchObject({ userId: 'ann', data: { name: 'Ada' } });
    },
  );

  it.each(GRACES)('rotateGrace %s: nobody signs in by it: 409, no cookie', async (rotateGrace) => {
    const { app, token, next } = await startRotated(rotateGrace);
    const answer = await ask(`${app.url}/login/bob`, { ...post, ...withSid(token) });
    expect([answer.status, answer.cookies]).toEqual([409, []]);
    expect(await app.stored(next)).toMatchObject({ userId: 'ann' });
    expect(await app.registry.getUserSessions('bob')).toEqual([]);
  });

  it.each(GRACES)(
    'rotateGrace %s: of 20 requests of a browser, some of them late, none replaces the new cookie',
    async (rotateGrace) => {
      const app = await startRotating(platform, store, { rotateGrace: rotateGrace as Duration });
      const { token } = await app.aged();
      const answers = await Promise.all(
        Array.from({ length: 20 }, async (_, index) => {
          await sleep(index * 3); // the last ones reach the server after the rotation
          return ask(`${app.url}/set/k${index}`, withSid(token));
        }),
      );
      for (const { status, body } of answers) if (status !== 200) expect(body).toEqual(CONFLICT);
      expect(countOf(answers, 409)).toBeGreaterThan(0);
      expect(answers.flatMap(({ cookies }) => cookies)).toHaveLength(1);
      const saved = answers.flatMap(({ status }, index) => (status === 200 ? [[`k${index}`, true]] : []));
      const stored = await app.stored(tokensOf(answers)[0]);
      expect(stored).toMatchObject({ userId: 'ann' });
      expect(stored?.data).toEqual({ name: 'Ada', ...Object.fromEntries(saved) });
      expect(await app.store.length()).toBe(1);
    },
  );

  it('a visitor whose token nobody knows, or has ended, begins a session as ever', async () => {
    const { app, next } = await startRotated('0s');
    await app.sessions.destroy(next);
    for (const token of [next, 'A'.repeat(44)]) {
      const answer = await ask(`${app.url}/set/x`, withSid(token));
      expect([answer.status, answer.cookies.length]).toEqual([200, 1]);
    }
  });
});

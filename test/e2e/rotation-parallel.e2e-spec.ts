// `rotateGrace` over HTTP: parallel requests of one browser that still carry the old token.
import 'reflect-metadata';
import { describe, expect, it } from 'vitest';
import { waitFor } from '../support/wait-for.js';
import { ask, cookieOf } from './support/http-client.js';
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

  it('without rotateGrace writers get 200 or 401, and what got 200 is stored', async () => {
    const app = await startRotating(platform, store);
    const { token } = await app.aged();
    const answers = await askAll(app, token, (index) => `/wait-and-set/k${index}`, true);
    for (const { status, body } of answers) if (status !== 200) expect(body).toEqual(UNAUTHORIZED);
    const tokens = tokensOf(answers);
    expect(tokens).toHaveLength(1);
    const saved = answers.flatMap(({ status }, index) => (status === 200 ? [[`k${index}`, true]] : []));
    expect((await app.stored(tokens[0]))?.data).toEqual({ name: 'Ada', ...Object.fromEntries(saved) });
  });
});

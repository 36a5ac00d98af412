import { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { keep, keptOf } from '../../../lib/http/kept.js';
import type { RequestSession } from '../../../lib/http/request-session.js';

const SESSION = { secret: 'swordfish' } as unknown as RequestSession;

describe.each([
  ['a request of Node', () => new IncomingMessage(new Socket())],
  ['an object of headers', () => ({ headers: {} })],
  ['a frozen one', () => Object.freeze({ headers: {} })],
])('keep() for %s', (_, make) => {
  it('keeps one thing for each request, which keptOf() finds again, and nothing for another', () => {
    const request = make();
    expect(keptOf(request)).toBeUndefined();
    keep(request).session = SESSION;
    expect(keep(request)).toBe(keptOf(request));
    expect(keptOf(request)?.session).toBe(SESSION);
    expect(keptOf(make())).toBeUndefined();
  });

  it('shows nothing of it to who logs the request', () => {
    const request = make();
    keep(request).session = SESSION;
    expect(inspect(request, { depth: 10 })).not.toContain('swordfish');
    expect(JSON.stringify({ ...request, socket: null, client: null })).not.toContain('swordfish');
  });
});

it.each([
  ['spread into another', (request: object) => ({ ...request, headers: { authorization: 'Bearer other' } })],
  ['made from it', (request: object) => Object.create(request) as object],
])('a request that is %s has a session of its own', (_, copy) => {
  const request = new IncomingMessage(new Socket());
  keep(request).session = SESSION;
  const other = copy(request);
  expect(keptOf(other)).toBeUndefined();
  const another = { secret: 'another' } as unknown as RequestSession;
  keep(other).session = another;
  expect(keptOf(other)?.session).toBe(another);
  expect(keptOf(request)?.session).toBe(SESSION);
});

// Families that the near cache answers: hits, the guard, and tokens it knows to be unknown.
import { awaited, looped, ROUND } from './lookups.mjs';
import { closedLoop } from './rounds.mjs';
import { check, contextOf, createSessions, forgeToken, makeData, openFor, POOL, rawKeys } from './kit.mjs';

/** What a lookup returned last: keeps the compiler from leaving the work out. */
export let sink;

/** Copies must not grow old while they are measured. */
const LASTING = { cache: { maxAge: '1h' } };

async function cachedTokens(service) {
  const tokens = await createSessions(service, ROUND);
  for (const token of tokens) {
    const session = await service.get(token);
    check(session?.source === 'cache', 'a session that was just created must come from the near cache');
  }
  return tokens;
}

export async function cache(env) {
  const { service, guard } = await openFor(env, LASTING);
  const tokens = await cachedTokens(service);
  // What a plain cache would hold: the data, shared by everyone who asks.
  const map = new Map(tokens.map((token) => [token, makeData()]));
  // What any cache must do whose copies end: one lookup, one reading of the clock.
  const lasting = new Map(tokens.map((token) => [token, { data: makeData(), until: 2 ** 52 }]));
  // An awaited lookup, as `await service.get(token)` is one.
  const mapAwaited = awaited(
    (index) => map.get(tokens[index]),
    (data) => (sink = data) !== undefined,
  );
  const get = (index) => service.get(tokens[index]);
  const getAwaited = awaited(get, (session) => (sink = session) !== null && session.isNew === false);
  const getAndRead = awaited(get, (session) => (sink = session).data.x === 1_000_000);
  const mapSync = looped((index) => (sink = map.get(tokens[index])) !== undefined);
  const lastingSync = looped((index) => {
    sink = lasting.get(tokens[index]);
    return sink !== undefined && performance.now() < sink.until;
  });
  const getSync = looped((index) => {
    sink = service.getCached(tokens[index]);
    return sink !== null && sink.isNew === false;
  });
  const headers = tokens.map((token) => ({ authorization: `Bearer ${token}` }));
  // As a request comes: nobody has looked for its session yet.
  const arrive = (index) => contextOf({ headers: headers[index] });
  // canActivate() answers `true`, and not a promise of it, where the near cache does.
  const guarded = looped((index) => (sink = guard.canActivate(arrive(index))) === true);
  const bearer = looped((index) => {
    const request = arrive(index).switchToHttp().getRequest();
    const [, token] = /^Bearer +(\S+) *$/i.exec(request.headers.authorization);
    sink = lasting.get(token);
    return sink !== undefined && performance.now() < sink.until;
  });

  const local = true;
  const clock = 'Map.get, clock';
  return [
    {
      title: 'get, cached',
      against: 'await Map.get',
      aim: 0.4,
      aimAlone: 0.4,
      local,
      ours: getAwaited,
      base: mapAwaited,
    },
    { title: 'get, cached, then .data', against: 'await Map.get', local, ours: getAndRead, base: mapAwaited },
    { title: 'getCached', against: 'Map.get', local, sync: true, ours: getSync, base: mapSync },
    { title: 'getCached', against: clock, aim: 0.6, local, sync: true, ours: getSync, base: lastingSync },
    {
      title: 'SessionGuard, hit',
      against: `header, ${clock}`,
      aim: 0.6,
      local,
      sync: true,
      ours: guarded,
      base: bearer,
    },
  ];
}

export async function forged(env) {
  const { raw } = env;
  const near = await openFor(env, LASTING);
  const far = await openFor(env, { cache: false });
  const [tokens, farTokens] = [await cachedTokens(near.service), await createSessions(far.service, ROUND)];
  const unknown = Array.from({ length: ROUND }, forgeToken);

  let hitsBefore = 0;
  const lookups = awaited(
    (index) => near.service.get(unknown[index]),
    (session) => (sink = session) === null,
  );
  const again = {
    async prepare() {
      // They are remembered for 5 s; a fresh read begins them anew.
      await closedLoop(ROUND, 64, (index) => near.service.get(unknown[index], { fresh: true }));
      hitsBefore = near.cache.stats().unknownHits;
    },
    run: (count, concurrency) => lookups.run(count, concurrency),
    verify(count) {
      lookups.verify(count);
      const remembered = near.cache.stats().unknownHits - hitsBefore;
      check(remembered === count, `${remembered} of ${count} unknown tokens were answered from memory`);
    },
  };
  const from = (source) => (session) => (sink = session).source === source;
  const cached = awaited((index) => near.service.get(tokens[index]), from('cache'));
  const stored = awaited((index) => far.service.get(farTokens[index]), from('store'));

  let fresh = [];
  let absent = 0;
  const first = {
    prepare(count) {
      absent = 0;
      fresh = Array.from({ length: count }, forgeToken);
      hitsBefore = near.cache.stats().unknownHits;
    },
    run: (count, concurrency) =>
      closedLoop(count, concurrency, async (index) => {
        if ((await near.service.get(fresh[index])) === null) absent++;
      }),
    verify(count) {
      check(absent === count, `${absent} of ${count} forged tokens found nothing`);
      check(near.cache.stats().unknownHits === hitsBefore, 'each forged token is asked for once');
    },
  };
  const keys = rawKeys(near.prefix, POOL);
  const missing = {
    prepare: () => (absent = 0),
    run: (count, concurrency) =>
      closedLoop(count, concurrency, async (index) => {
        if ((await raw.get(keys[index % POOL])) === null) absent++;
      }),
    verify: (count) => check(absent === count, `${absent} of ${count} keys were missing`),
  };

  const maxCount = 2_000_000;
  const local = true;
  return [
    { title: 'unknown token, again', against: 'get, cached', local, ours: again, base: cached },
    {
      title: 'unknown token, again',
      against: 'get, from Redis',
      aim: 5,
      maxCount,
      ours: again,
      base: stored,
    },
    { title: 'get, cached', against: 'get, from Redis', aim: 20, maxCount, ours: cached, base: stored },
    { title: 'unknown token, first time', against: 'GET, nil', aim: 0.6, ours: first, base: missing },
  ];
}

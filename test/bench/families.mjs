// The families: what is measured, against which least possible work, and how each sample proves that it was done.
import { cache, forged } from './near-cache.mjs';
import { commandStats } from './redis.mjs';
import { closedLoop } from './rounds.mjs';
import {
  check,
  countExisting,
  createSessions,
  IDLE_SECONDS,
  JSON_220,
  makeData,
  openFor,
  POOL,
  rawKeys,
  setRawKeys,
  unlinkAll,
} from './kit.mjs';

/** Users among whom sessions are spread where they have one. */
const USERS = 500;
const someUser = (index) => `user-${index % USERS}`;
const nobody = () => null;

/**
 * A row of the table.
 *
 * @typedef {object} Row
 * @property {string} title
 * @property {string} against the baseline, in words
 * @property {number} [aim] least ratio wanted at concurrency 64; absent: for information
 * @property {number} [aimAlone] the same at concurrency 1
 * @property {boolean} [sync] does not await, so that concurrency means nothing
 * @property {boolean} [local] never asks Redis
 * @property {number} [maxCount] most operations to a sample, where only one side asks Redis
 * @property {import('./rounds.mjs').Side} ours
 * @property {import('./rounds.mjs').Side} base
 */

/**
 * Name → function that opens what the family needs and yields its rows. `defer` registers what must be closed after.
 *
 * @type {Record<string, (env: { url: string, raw: import('ioredis').Redis, defer: (close: () => unknown) => void }) => Promise<Row[]>>}
 */
export const FAMILIES = { cache, forged, get, create, save, touch, destroy };

// --- reading --------------------------------------------------------------------------------------------------------

async function get(env) {
  const { raw } = env;
  const { service, prefix } = await openFor(env, { cache: false });
  const tokens = await createSessions(service, POOL);
  const id = (await service.get(tokens[0])).id;
  const partition = Buffer.from(id, 'base64url')[0];
  const bytes = await raw.strlen(`${prefix}{${partition}}:s:${id}`);
  check(bytes > 220, 'the record must be where redis-keys.ts says');
  const value = 'v'.repeat(bytes);
  const keys = await setRawKeys(raw, prefix, POOL, value);
  let found = 0;
  const verify = (count) => check(found === count, `${found} of ${count} reads found their value`);
  const ours = {
    prepare: () => (found = 0),
    run: (count, concurrency) =>
      closedLoop(count, concurrency, async (index) => {
        const session = await service.get(tokens[index % POOL]);
        if (session.source === 'store' && session.data.x === 1_000_000) found++;
      }),
    verify,
  };
  const base = {
    prepare: () => (found = 0),
    run: (count, concurrency) =>
      closedLoop(count, concurrency, async (index) => {
        const text = await raw.get(keys[index % POOL]);
        if (text.length === bytes) found++;
      }),
    verify,
  };
  return [
    { title: 'get, from Redis', against: `GET of ${bytes} bytes`, aim: 0.85, aimAlone: 0.78, ours, base },
  ];
}

// --- creating and ending --------------------------------------------------------------------------------------------

async function create(env) {
  const [app, uncached] = [await openFor(env), await openFor(env, { cache: false })];
  const base = rawSet(env.raw, app.prefix);
  const row = (title, { service, store, registry }, userOf, aims) => {
    let last;
    const ours = {
      run: (count, concurrency) =>
        closedLoop(count, concurrency, async (index) => {
          last = await service.create(makeDataCheaply(), { userId: userOf(index) });
        }),
      async verify(count) {
        const length = await store.length();
        check(length === count, `${count} sessions created, ${length} in the index`);
        const stored = await service.get(last.token);
        check(JSON.stringify(stored?.data) === JSON_220, 'the last session has its data');
        if (userOf(0) !== null) {
          const listed = await registry.getUserSessions(userOf(0));
          const wanted = Math.ceil(count / USERS);
          check(listed.length === wanted, `${listed.length} of ${wanted} sessions in a user's index`);
        }
        await store.clear();
      },
    };
    return { title, against: 'SET EX', ...aims, ours, base };
  };
  return [
    row('create, of a user', app, someUser, { aim: 0.75, aimAlone: 0.6 }),
    row('create, anonymous', app, nobody, { aim: 0.75, aimAlone: 0.6 }),
    row('create, of a user, cache off', uncached, someUser),
  ];
}

const DATA = makeData();
/** The caller's data; `create` does not keep it. */
const makeDataCheaply = () => DATA;

/** SET EX of the same JSON, each time another key. */
function rawSet(raw, prefix) {
  let keys = [];
  return {
    prepare: (count) => (keys = rawKeys(prefix, count)),
    run: (count, concurrency) =>
      closedLoop(count, concurrency, (index) => raw.set(keys[index], JSON_220, 'EX', IDLE_SECONDS)),
    async verify(count) {
      const existing = await countExisting(raw, keys);
      check(existing === count, `${existing} of ${count} keys set`);
      check((await raw.ttl(keys.at(-1))) > 0, 'the keys expire');
      await unlinkAll(raw, keys);
    },
  };
}

async function destroy(env) {
  const { raw } = env;
  const [app, uncached] = [await openFor(env), await openFor(env, { cache: false })];
  let keys = [];
  let ended = 0;
  const base = {
    async prepare(count) {
      ended = 0;
      keys = await setRawKeys(raw, app.prefix, count, JSON_220);
    },
    run: (count, concurrency) =>
      closedLoop(count, concurrency, async (index) => {
        if ((await raw.del(keys[index])) === 1) ended++;
      }),
    async verify(count) {
      check(ended === count, `${ended} of ${count} keys deleted`);
      check((await countExisting(raw, keys)) === 0, 'a deleted key is gone');
    },
  };
  const row = (title, { service, store }, userOf, aim) => {
    let tokens = [];
    const ours = {
      async prepare(count) {
        ended = 0;
        tokens = await createSessions(service, count, userOf);
        check((await store.length()) === count, 'the sessions to destroy are there');
      },
      run: (count, concurrency) =>
        closedLoop(count, concurrency, async (index) => {
          if (await service.destroy(tokens[index])) ended++;
        }),
      async verify(count) {
        check(ended === count, `${ended} of ${count} sessions were alive and ended`);
        check((await store.length()) === 0, 'the index is empty after destroy');
        check((await service.get(tokens.at(-1))) === null, 'a destroyed session is gone');
      },
    };
    return { title, against: 'DEL', aim, ours, base };
  };
  return [
    row('destroy, anonymous', app, nobody, 0.6),
    row('destroy, of a user', app, someUser, 0.6),
    row('destroy, of a user, cache off', uncached, someUser),
  ];
}

// --- changing -------------------------------------------------------------------------------------------------------

async function save(env) {
  const { raw } = env;
  const [app, uncached] = [await openFor(env), await openFor(env, { cache: false })];
  const keys = await setRawKeys(raw, app.prefix, POOL, '');
  const base = {
    run: (count, concurrency) =>
      closedLoop(count, concurrency, (index) => raw.set(keys[index % POOL], JSON_220, 'EX', IDLE_SECONDS)),
    async verify() {
      check((await raw.get(keys[0])) === JSON_220, 'the value was set');
    },
  };
  let x = 1_000_000;
  const row = async (title, { service }, userOf, aim) => {
    const tokens = await createSessions(service, POOL, userOf);
    let sessions = [];
    let last = [];
    const ours = {
      async prepare() {
        last = [];
        sessions = await Promise.all(tokens.map((token) => service.get(token)));
      },
      run: (count, concurrency) =>
        closedLoop(count, concurrency, (index) => {
          const session = sessions[index % POOL];
          session.data.x = last[index % POOL] = ++x;
          return session.save();
        }),
      async verify() {
        await Promise.all(
          sessions.map(async (session, index) => {
            if (last[index] === undefined) return;
            await session.reload();
            check(session.data.x === last[index], 'the store holds what was saved last');
          }),
        );
      },
    };
    return { title, against: 'SET EX', aim, ours, base };
  };
  return [
    await row('save of one field, anonymous', app, nobody, 0.6),
    await row('save of one field, of a user', app, someUser, 0.6),
    await row('save of one field, cache off', uncached, nobody),
  ];
}

async function touch(env) {
  const { raw } = env;
  const app = await openFor(env, { touchInterval: 0 });
  const keys = await setRawKeys(raw, app.prefix, POOL, JSON_220);
  let done = 0;
  const base = {
    prepare: () => (done = 0),
    run: (count, concurrency) =>
      closedLoop(count, concurrency, async (index) => {
        if ((await raw.pexpire(keys[index % POOL], IDLE_SECONDS * 1_000)) === 1) done++;
      }),
    verify: (count) => check(done === count, `${done} of ${count} keys prolonged`),
  };
  const row = async (title, { service }, userOf, aim) => {
    const tokens = await createSessions(service, POOL, userOf);
    let sessions = [];
    let writesBefore = 0;
    const writes = async () => (await commandStats(raw)).setrange?.calls ?? 0;
    const ours = {
      async prepare() {
        done = 0;
        sessions = await Promise.all(tokens.map((token) => service.get(token)));
        writesBefore = await writes();
      },
      run: (count, concurrency) =>
        closedLoop(count, concurrency, async (index) => {
          if (await sessions[index % POOL].touch()) done++;
        }),
      async verify(count) {
        check(done === count, `${done} of ${count} touches found their session`);
        // touch() may decide that nothing is due; then it would look fast for doing nothing.
        const written = (await writes()) - writesBefore;
        check(written >= count * 0.999, `${written} of ${count} touches were written`);
      },
    };
    return { title, against: 'PEXPIRE', aim, ours, base };
  };
  return [await row('touch, anonymous', app, nobody, 0.6), await row('touch, of a user', app, someUser, 0.6)];
}

// A process whose memory is measured: it holds nothing but the app and the tokens, these as bytes.
import { setTimeout as delay } from 'node:timers/promises';
import { serve } from '../support/worker-rpc.mjs';
import { check, contextOf, openApp } from './kit.mjs';
import { closedLoop } from './rounds.mjs';

const TOKEN_LENGTH = 44;
const COOKIE = 'sid';
/** Fewer than the files that may be written at once, or copies are refused. */
const CHUNK = 200;
const MAX_PASSES = 5;
/** Reads that compile and load whatever filling needs before memory is measured for the first time. */
const WARM_UP = 2_000;

let tokens = Buffer.alloc(0);
let app;

serve({
  /** @param all the tokens, one after the other, in a Buffer of 44 bytes each */
  take(all) {
    tokens = Buffer.from(all);
  },
  async open(url, options) {
    app = await open(url, { ...options, cache: { ...options.cache, maxEntries: 100 } });
    await fill(0, WARM_UP, 0);
    const before = memory();
    const warm = app;
    app = await open(url, options);
    await warm.close();
    return before;
  },
  /** @param cookieLength of the Cookie header that tokens are cut from; 0: they come as strings of their own */
  async fill(from, to, cookieLength) {
    await fill(from, to, cookieLength);
    return { ...memory(), ...app.cache.stats() };
  },
  close: () => app.close(),
});

const open = async (url, options) => ({
  ...(await openApp(url, { ...options, cookie: { name: COOKIE } })),
  options,
});

/** Reads sessions from the store, again where copies were refused because too many files were being written. */
async function fill(from, to, cookieLength) {
  const read = cookieLength === 0 ? readByToken : cookieReader(cookieLength);
  const { maxEntries } = app.options.cache;
  for (let pass = 0; pass < MAX_PASSES && (pass === 0 || app.cache.size < Math.min(to, maxEntries)); pass++) {
    for (let start = from; start < to; start += CHUNK) {
      await closedLoop(Math.min(CHUNK, to - start), 64, (index) => read(start + index));
      if (app.options.cache.type === 'file') await delay(2);
    }
    // Copies move to their files behind the answers.
    for (let bytes = -1; bytes !== app.cache.stats().bytes; await delay(100)) bytes = app.cache.stats().bytes;
  }
}

/** A string of its own, as nothing else in this process holds it. */
const tokenAt = (index) => tokens.latin1Slice(index * TOKEN_LENGTH, (index + 1) * TOKEN_LENGTH);

async function readByToken(index) {
  const session = await app.service.get(tokenAt(index));
  check(session !== null, 'the session is in the store');
}

/** As a request does: the token is cut out of a Cookie header by the guard. */
function cookieReader(cookieLength) {
  const own = `; ${COOKIE}=`;
  const others = `others=${'x'.repeat(cookieLength - TOKEN_LENGTH - own.length - 'others='.length)}`;
  return async (index) => {
    // Through bytes, because a header from the network is one flat string.
    const cookie = Buffer.from(others + own + tokenAt(index)).latin1Slice();
    check(
      (await app.guard.canActivate(contextOf({ headers: { cookie } }))) === true,
      'the guard lets the request through',
    );
  };
}

function memory() {
  for (let round = 0; round < 4; round++) globalThis.gc();
  const { heapUsed, external, arrayBuffers, rss } = process.memoryUsage();
  return { heapUsed, external, arrayBuffers, rss };
}

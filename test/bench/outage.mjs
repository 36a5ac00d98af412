// `npm run bench:outage [-- --requests 5000] [-- --profile folder]`
//
// What a request costs while Redis is silent and the breaker open: a guarded route that answers 503, one that is content
// with a stale copy, and beside them, in the same run, a route without a session. One connection, kept alive, one request
// after another; three blocks of each route in turn. Ends with code 1 where the median of a guarded one is over 2 ms.
import { Agent, request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Redis } from 'ioredis';
import { newPrefix } from './kit.mjs';
import { deleteByPrefix, openRedis } from './redis.mjs';
import { startWorker } from './workers.mjs';

const MOST_MS = 2;
const COMMAND_TIMEOUT_MS = 500;
const ROUNDS = 3;
const ROUTES = { '/open': 200, '/me': 503, '/stale': 200 };

const { values: options } = parseArgs({
  options: { requests: { type: 'string', default: '5000' }, profile: { type: 'string' } },
});
const requests = Number(options.requests);
if (!(Number.isInteger(requests) && requests >= 100)) {
  console.error('--requests must be a whole number of at least 100');
  process.exit(2);
}
process.env.NODE_ENV = 'production'; // the servers' too
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));

const redis = await openRedis();
const failures = [];
try {
  for (const platform of ['express', 'fastify']) await measure(platform);
} finally {
  await redis.stop();
}
for (const failure of failures) console.error(failure);
process.exit(failures.length === 0 ? 0 : 1);

async function measure(platform) {
  const prefix = newPrefix();
  const execArgv = options.profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${options.profile}`];
  const server = await startWorker('./outage-worker.mjs', execArgv);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  try {
    const what = { platform, url: redis.url, prefix, commandTimeoutMs: COMMAND_TIMEOUT_MS };
    const { port, token } = await server.call('open', what);
    const ask = (path) => answerOf({ agent, port, path, headers: { cookie: `sid=${token}` } });
    // A copy that the stale route can serve; before the subscriber is live nothing is kept.
    for (let count = 0; count < 20; count++) {
      if ((await ask('/me')) !== 200) throw new Error(`${platform}: /me is not served before the outage`);
      await delay(50);
    }
    await server.call('silence');
    for (const begun = Date.now(); (await server.call('breaker')) !== 'open';) {
      if (Date.now() - begun > 20_000) throw new Error(`${platform}: the breaker did not open`);
      await Promise.all(Array.from({ length: 4 }, () => askAlone(port, token)));
    }
    const times = Object.fromEntries(Object.keys(ROUTES).map((path) => [path, []]));
    for (let round = -1; round < ROUNDS; round++) {
      for (const [path, status] of Object.entries(ROUTES)) {
        for (let count = 0; count < requests / ROUNDS; count++) {
          const begun = performance.now();
          const got = await ask(path);
          const ms = performance.now() - begun;
          if (got !== status) throw new Error(`${platform}: ${path} was answered ${got}, not ${status}`);
          if (round >= 0) times[path].push(ms); // the first round is for the compiler
        }
      }
    }
    if ((await server.call('breaker')) !== 'open') throw new Error(`${platform}: the breaker has closed`);
    for (const [path, figures] of Object.entries(times)) {
      const sorted = figures.sort((a, b) => a - b);
      const at = (share) => sorted[Math.floor((sorted.length - 1) * share)];
      console.log(
        `${platform.padEnd(8)}${path.padEnd(7)}${ROUTES[path]}  median ${at(0.5).toFixed(3)} ms, p95 ${at(0.95).toFixed(3)}, ` +
          `p99 ${at(0.99).toFixed(3)}, max ${at(1).toFixed(3)} (${sorted.length} requests)`,
      );
      if (path !== '/open' && at(0.5) > MOST_MS)
        failures.push(`${platform}: the median of ${path} is over ${MOST_MS} ms`);
    }
    await server.call('close');
  } finally {
    agent.destroy();
    await server.stop();
    const client = new Redis(redis.url);
    await deleteByPrefix(client, prefix);
    client.disconnect();
  }
}

/** On a connection of its own, so that several wait at the same time. */
function askAlone(port, token) {
  return answerOf({ port, path: '/me', agent: false, headers: { cookie: `sid=${token}` } });
}

function answerOf({ agent, port, path, headers }) {
  return new Promise((resolve, reject) => {
    const outgoing = request({ host: '127.0.0.1', port, path, agent, headers }, (response) => {
      response.resume();
      response.once('end', () => resolve(response.statusCode));
    });
    outgoing.once('error', reject);
    outgoing.end();
  });
}

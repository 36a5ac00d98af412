// A contender that runs: its process, its signed-in clients, and the checks without which no figure is printed.
import { check, makeData, newPrefix } from '../kit.mjs';
import { commandStats, deleteByPrefix, statsBetween } from '../redis.mjs';
import { startWorker } from '../workers.mjs';

const CONNECTIONS = 64;
/** Requests of each connection from which the commands per request are counted. */
const COUNTED = 100;
/** How long an idle server is watched for what it asks Redis without requests. */
const IDLE_MS = 1_000;

const NAME = makeData().name;
/** What makes a request read a session: a script, or the plain command. */
const READS = ['evalsha', 'get'];

/**
 * Starts a contender's server and signs in a client for each connection.
 *
 * @param {import('./contenders.mjs').Contender} contender
 * @param {{ url: string, raw: import('ioredis').Redis, load: object, execArgv?: string[] }} env
 */
export async function startContender(contender, { url, raw, load, execArgv = [] }) {
  const { name, platform, kind, writes, bytes } = contender;
  const prefix = newPrefix();
  const server = await startWorker('./http/server-worker.mjs', execArgv);
  const stop = async () => {
    await server.stop();
    await deleteByPrefix(raw, prefix);
  };
  try {
    const port = await server.call('open', { platform, kind, url, prefix, data: makeData(undefined, bytes) });
    const origin = `http://127.0.0.1:${port}`;
    const cookies = await Promise.all(Array.from({ length: CONNECTIONS }, () => signIn(origin)));
    const body = writes ? undefined : JSON.stringify({ name: NAME });
    const ask = async () => checkAnswer(contender, await askOnce(origin, cookies[0]), body);

    /** Puts load on it; resolves to requests per second, and CPU microseconds per request of both sides. */
    const run = async (extent) => {
      const before = await server.call('cpu');
      const { requests, seconds, cpuUs, wrong, ...latency } = await load.call('run', {
        port,
        cookies,
        body,
        ...extent,
      });
      const serverUs = (await server.call('cpu')) - before;
      const faults = Object.entries(wrong).filter(([, count]) => count > 0);
      check(faults.length === 0, `${name}: ${faults.map(([what, count]) => `${count} ${what}`).join(', ')}`);
      check(requests > 0, `${name} answered nothing`);
      return {
        perSecond: requests / seconds,
        cpuUs: serverUs / requests,
        serverBusy: serverUs / 1e6 / seconds,
        loadBusy: cpuUs / 1e6 / seconds,
        ...latency,
      };
    };

    /** Redis commands per request; those that it sends when nobody asks it are taken off. */
    const countCommands = async () => {
      const first = await ask();
      const idle = await statsDuring(raw, () => new Promise((resolve) => setTimeout(resolve, IDLE_MS)));
      const busy = await statsDuring(raw, () => run({ amount: CONNECTIONS * COUNTED }));
      const last = await ask();
      if (writes) check(last - first === COUNTED + 1, `${name}: ${last - first} of ${COUNTED + 1} writes`);
      const perRequest = {};
      for (const [command, { calls }] of Object.entries(busy.stats)) {
        const idly = ((idle.stats[command]?.calls ?? 0) / idle.ms) * busy.ms;
        // One heartbeat more or less is no request's.
        if (calls - idly >= 2) perRequest[command] = (calls - idly) / (CONNECTIONS * COUNTED);
      }
      return perRequest;
    };

    /**
     * Reads of Redis by as many requests at once as there are connections, when nothing is held of what they ask for: all
     * with one token, and each with its own.
     */
    const countColdReads = async () => {
      const burst = async (all) => {
        await server.call('cool');
        const { stats } = await statsDuring(raw, async () => {
          const answers = await Promise.all(all.map((cookie) => askOnce(origin, cookie)));
          for (const answer of answers) checkAnswer(contender, answer, body);
        });
        // A script's own commands count too; it is the script that is one.
        return READS.map((command) => stats[command]?.calls ?? 0).find((calls) => calls > 0) ?? 0;
      };
      return { ofOne: await burst(cookies.map(() => cookies[0])), ofEach: await burst(cookies) };
    };

    return {
      contender,
      run,
      ask,
      countCommands,
      countColdReads,
      async close() {
        await server.call('close');
        await stop();
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function signIn(origin) {
  const response = await fetch(`${origin}/sign-in`, { method: 'POST' });
  await response.arrayBuffer();
  const [cookie] = response.headers.getSetCookie();
  check(response.status === 201 && cookie !== undefined, `sign-in was answered ${response.status}`);
  return cookie.split(';')[0];
}

async function askOnce(origin, cookie) {
  const response = await fetch(`${origin}/me`, { headers: { cookie } });
  return { status: response.status, type: response.headers.get('content-type'), text: await response.text() };
}

/** Resolves to the number of views where the route counts them. */
function checkAnswer({ name }, { status, type, text }, body) {
  check(
    status === 200 && type?.startsWith('application/json'),
    `${name} answered ${status} ${type}: ${text}`,
  );
  if (body !== undefined) {
    check(text === body, `${name} answered ${text}`);
    return undefined;
  }
  const views = Number(/^\{"views":(\d+)\}$/.exec(text)?.[1]);
  check(views > 0, `${name} answered ${text}`);
  return views;
}

async function statsDuring(raw, work) {
  const before = await commandStats(raw);
  const start = performance.now();
  await work();
  const ms = performance.now() - start;
  return { stats: statsBetween(before, await commandStats(raw)), ms };
}

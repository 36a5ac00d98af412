// The process that asks. One for all contenders, so that what it costs falls on all of them alike.
import autocannon from 'autocannon';
import { serve } from '../../support/worker-rpc.mjs';
import { quantile } from '../rounds.mjs';
import { endWithParent } from './end-with-parent.mjs';

/** Between two looks whether the time is over. */
const LOOK_MS = 50;

endWithParent();

serve({
  /** `GET /me` over one connection per cookie, for `seconds`, or until there were `amount` answers. */
  async run({ port, cookies, body, seconds, amount }) {
    let next = 0;
    const waits = [];
    const cpu = process.cpuUsage();
    const result = await autocannon({
      url: `http://127.0.0.1:${port}/me`,
      connections: cookies.length,
      pipelining: 1,
      sampleInt: LOOK_MS,
      setupClient(client) {
        client.setHeaders({ cookie: cookies[next++ % cookies.length] });
        // The first answer of each is left out: a server accepts one connection in a turn of its loop and answers all it
        // has between two, so that it is the slowest 1 % of a round, whatever serves it.
        client.once('response', () => client.on('response', (_status, _bytes, ms) => waits.push(ms)));
      },
      ...(body !== undefined && { expectBody: body }),
      ...(amount === undefined ? { duration: seconds } : { amount }),
    });
    const { user, system } = process.cpuUsage(cpu);
    return {
      requests: result.requests.total,
      seconds: (result.finish - result.start) / 1e3,
      cpuUs: user + system,
      p50: quantile(waits, 0.5),
      p99: quantile(waits, 0.99),
      wrong: {
        errors: result.errors,
        timeouts: result.timeouts,
        non2xx: result.non2xx,
        mismatches: result.mismatches,
      },
    };
  },
});

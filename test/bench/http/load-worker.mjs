// The process that asks. One for all contenders, so that what it costs falls on all of them alike.
import autocannon from 'autocannon';
import { serve } from '../../support/worker-rpc.mjs';
import { endWithParent } from './end-with-parent.mjs';

/** Between two looks whether the time is over. */
const LOOK_MS = 50;

endWithParent();

serve({
  /** `GET /me` over one connection per cookie, for `seconds`, or until there were `amount` answers. */
  async run({ port, cookies, body, seconds, amount }) {
    let next = 0;
    const cpu = process.cpuUsage();
    const result = await autocannon({
      url: `http://127.0.0.1:${port}/me`,
      connections: cookies.length,
      pipelining: 1,
      sampleInt: LOOK_MS,
      setupClient: (client) => client.setHeaders({ cookie: cookies[next++ % cookies.length] }),
      ...(body !== undefined && { expectBody: body }),
      ...(amount === undefined ? { duration: seconds } : { amount }),
    });
    const { user, system } = process.cpuUsage(cpu);
    return {
      requests: result.requests.total,
      seconds: (result.finish - result.start) / 1e3,
      cpuUs: user + system,
      p50: result.latency.p50,
      p99: result.latency.p99,
      wrong: {
        errors: result.errors,
        timeouts: result.timeouts,
        non2xx: result.non2xx,
        mismatches: result.mismatches,
      },
    };
  },
});

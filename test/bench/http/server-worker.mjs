// The process of one contender.
import { serve } from '../../support/worker-rpc.mjs';
import { openApp } from './apps.mjs';
import { endWithParent } from './end-with-parent.mjs';

let app;
endWithParent();

serve({
  /** Resolves to the port. */
  async open(what) {
    app = await openApp(what);
    return app.port;
  },
  /** CPU microseconds of this process so far. */
  cpu() {
    const { user, system } = process.cpuUsage();
    return user + system;
  },
  cool() {
    app.cool();
  },
  async close() {
    await app.close();
  },
});

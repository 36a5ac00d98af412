// Boots the built package, uses it and closes it; then nothing may keep this process alive. See ../shutdown.integration-spec.ts.
import { createRequire } from 'node:module';
import 'reflect-metadata';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ScheduleModule, SchedulerRegistry } from '@nestjs/schedule';
import { RedisSubscriber, SessionModule, SessionRegistry, SessionService } from 'nestjs-sessionkit';
import { serve } from '../../support/worker-rpc.mjs';

// Opened now, so that they do not count as opened by the package (ioredis looks at stderr).
void [process.stdout, process.stderr];

let app;
let resourcesBefore;
let userClient;

const loaded = (name) =>
  Object.keys(createRequire(import.meta.url).cache).filter((file) => file.includes(`/node_modules/${name}/`));

/** Kinds of open resources that were not there before the boot. */
function newResources() {
  const left = process.getActiveResourcesInfo();
  for (const kind of resourcesBefore) {
    const at = left.indexOf(kind);
    if (at >= 0) left.splice(at, 1);
  }
  return left;
}

serve({
  /** `userClient: true` hands over a client of our own instead of the URL. */
  async boot(options, { withUserClient = false, schedule = true } = {}) {
    resourcesBefore = process.getActiveResourcesInfo();
    const settings = { ...options };
    if (withUserClient) {
      const { Redis } = await import('ioredis');
      userClient = new Redis(options.redis, { keyPrefix: 'users-own:', db: 3 });
      settings.redis = userClient;
    }
    class App {}
    Module({ imports: [...(schedule ? [ScheduleModule.forRoot()] : []), SessionModule.forRoot(settings)] })(
      App,
    );
    app = await NestFactory.createApplicationContext(App, { logger: false, abortOnError: false });
    const subscriber = app.get(RedisSubscriber);
    if (subscriber.state !== 'off') while (!subscriber.live) await new Promise(setImmediate);
  },
  jobs: () => [...app.get(SchedulerRegistry).getCronJobs().keys()],
  async work() {
    const sessions = app.get(SessionService);
    const session = await sessions.create({ n: 0 }, { userId: 'ada' });
    await sessions.update(session.token, { n: 1 });
    await sessions.get(session.token);
    await sessions.touch(session.token);
    await sessions.regenerate(session.token);
    await app.get(SessionRegistry).killUser('ada');
  },
  /** Starts writes and closes at once; resolves to what became of them and what is still open. */
  async close({ pending = false } = {}) {
    const sessions = app.get(SessionService);
    let outcomes = [];
    let id;
    if (pending) {
      const [kept, doomed, moved] = await Promise.all([{}, {}, {}].map((data) => sessions.create(data)));
      id = kept.id;
      kept.data.saved = 'at the last moment';
      outcomes = [
        kept.save(),
        doomed.destroy(),
        moved.regenerate({ userId: 'ada' }),
        sessions.create({ last: true }),
      ];
    }
    await app.close();
    const results = await Promise.allSettled(outcomes);
    await new Promise((resolve) => setTimeout(resolve, 20)); // sockets report their end a few turns later
    return { id, results: results.map(({ status }) => status), left: newResources() };
  },
  loaded,
  async useClient() {
    await userClient.set('k', 'v');
    return {
      status: userClient.status,
      value: await userClient.get('k'),
      options: { keyPrefix: userClient.options.keyPrefix, db: userClient.options.db },
      info: await userClient.client('INFO'),
    };
  },
  endClient: () => userClient.quit(),
});

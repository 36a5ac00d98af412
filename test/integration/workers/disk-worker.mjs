// A process with a DiskSessionStore: the built package, driven over IPC. See ../disk-store.integration-spec.ts.
import 'reflect-metadata';
import { DiskSessionStore } from 'nestjs-sessionkit/disk-store';
import { emit, serve } from '../../support/worker-rpc.mjs';

let store;
let app;
let sessions;

const newSession = (id, parts = {}) => ({
  id,
  userId: `user ${id.length % 3}`,
  idleTimeout: 600_000,
  absoluteTimeout: 0,
  metadata: { label: 'worker' },
  data: JSON.stringify({ n: 0 }),
  ...parts,
});

/** Creates a session, writes it some times, ends every third; tells of each step that was acknowledged. */
async function live(id, isEnded) {
  let { record } = await store.create(newSession(id));
  emit('acked', { id, n: 0 });
  for (let n = 1; n <= 4; n++) {
    ({ record } = await store.set({
      base: record,
      data: JSON.stringify({ n, fill: 'x'.repeat(n * 900) }),
      keepExpiry: n % 2 === 0,
    }));
    emit('acked', { id, n });
  }
  if (!isEnded) return;
  emit('ending', { id });
  await store.destroy(id);
  emit('ended', { id });
}

serve({
  async open(options) {
    store = new DiskSessionStore(options);
    await store.open();
  },
  close: () => store.close(),
  /** Loses all rights but those of nobody. */
  becomeNobody() {
    process.setgid(65534);
    process.setuid(65534);
  },

  /** Until it is killed, `writers` at once. */
  writeForEver(prefix, writers) {
    for (let writer = 0; writer < writers; writer++) {
      void (async () => {
        for (let i = 0; ; i++) await live(`${prefix}-${writer}-${i}`, i % 3 === 0);
      })();
    }
  },
  /** Creates so many at once; resolves to how each ended. */
  async createMany(prefix, count, parts) {
    const made = await Promise.all(
      Array.from({ length: count }, (_, i) => store.create(newSession(`${prefix}-${i}`, parts))),
    );
    return made.map(({ status }) => status);
  },
  /** A write beyond the limit of a file's size fails then, instead of ending the process. */
  surviveFullDisk: () => void process.on('SIGXFSZ', () => undefined),
  /** Creates one after the other until one fails, then five at once. Resolves to how many it were, and the errors. */
  async createUntilFull(prefix, size) {
    for (let i = 0; ; i++) {
      try {
        await store.create(newSession(`${prefix}-${i}`, { data: 'x'.repeat(size) }));
      } catch (error) {
        const more = await Promise.allSettled(
          Array.from({ length: 5 }, (_, n) =>
            store.create(newSession(`${prefix}-more-${n}`, { data: 'x'.repeat(size) })),
          ),
        );
        const together = more.map(({ reason }) => reason?.name);
        return { created: i, name: error.name, message: error.message, together };
      }
    }
  },
  get: (id) => store.get(id),
  length: () => store.length(),
  async sweep() {
    const told = [];
    await store.sweep(
      ({ id }) => told.push(id),
      1_000,
      () => false,
    );
    return told;
  },

  /** Resolves to the app's address. */
  async boot(storeOptions, options = {}) {
    store = new DiskSessionStore(storeOptions);
    // Only now: most of these processes have no app, and Nest and Express take longer to load than all the rest.
    const { startApp } = await import('./disk-app.mjs');
    ({ app, sessions } = await startApp(store, options));
    return `http://127.0.0.1:${app.getHttpServer().address().port}`;
  },
  create: async (data) => (await sessions.create(data)).token,
  async increment(token, times) {
    await Promise.all(
      Array.from({ length: times }, () =>
        sessions.update(token, (data) => {
          data.n += 1;
        }),
      ),
    );
  },
  data: async (token) => (await sessions.get(token)).data,
  shutdown: () => app.close(),
});

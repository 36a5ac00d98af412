// `waitForReplicas`: a session that was ended stays ended when a replica takes over. The replica follows its master
// through a delaying proxy; without the option the same test finds every ended session still on it.
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { SessionStoreUnavailableError, type SessionModuleOptions } from '../../lib/index.js';
import { uniquePrefix } from '../support/redis-url.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { openNode, recordKey, type SessionNode } from './session-node.js';

const ROUNDS = 200;
const BATCH = 25;
/** Each way; far above what a loaded machine takes to run one command. */
const LINK_DELAY_MS = 15;

describe('waitForReplicas', () => {
  let master: RedisServer;
  let replica: RedisServer;
  let link: TcpProxy;
  let onMaster: Redis;
  let onReplica: Redis;
  let prefix: string;
  const nodes: SessionNode[] = [];

  beforeAll(async () => {
    const fast = ['--repl-diskless-sync-delay', '0'];
    master = await RedisServer.start({ args: fast });
    link = await TcpProxy.start({ targetPort: master.port });
    replica = await RedisServer.start({ args: [...fast, '--replicaof', '127.0.0.1', String(link.port)] });
    onMaster = new Redis(master.url);
    onReplica = new Redis(replica.url);
    await inSync();
  });
  afterAll(async () => {
    onMaster.disconnect();
    onReplica.disconnect();
    await replica.kill();
    await link.close();
    await master.stop();
  });
  beforeEach(() => {
    prefix = uniquePrefix();
  });
  afterEach(async () => {
    link.delay({});
    await Promise.all(nodes.splice(0).map((node) => node.close()));
  });

  async function open(options: SessionModuleOptions = {}): Promise<SessionNode> {
    const node = await openNode({ redis: master.url, keyPrefix: prefix, waitForReplicas: 1, ...options });
    nodes.push(node);
    return node;
  }
  async function inSync(): Promise<void> {
    await waitFor(async () => /^master_link_status:up/m.test(await onReplica.info('replication')));
    // The replica says so before the master counts it in.
    await waitFor(async () => (await onMaster.wait(1, 1_000)) === 1);
  }
  const onTheReplica = (id: string): Promise<number> => onReplica.exists(recordKey(prefix, id));
  const onTheMaster = (id: string): Promise<number> => onMaster.exists(recordKey(prefix, id));
  function slowLink(): void {
    link.delay({ upstreamMs: () => LINK_DELAY_MS, downstreamMs: () => LINK_DELAY_MS });
  }

  /** Ends sessions in each way, many at a time; tells how many were still on the replica when that had resolved. */
  async function leftOver(node: SessionNode): Promise<number> {
    slowLink();
    let left = 0;
    for (let round = 0; round < ROUNDS; round += BATCH) {
      const sessions = await Promise.all(
        Array.from({ length: BATCH }, (_, index) =>
          node.sessions.create({}, index % 3 === 2 ? { userId: `user ${index}` } : {}),
        ),
      );
      await waitFor(async () => {
        const there = await Promise.all(sessions.map(({ id }) => onTheReplica(id)));
        return there.every((count) => count === 1);
      });
      const found = await Promise.all(
        sessions.map(async ({ token, id }, index) => {
          if (index % 3 === 0) expect(await node.sessions.destroy(token)).toBe(true);
          else if (index % 3 === 1) expect(await node.registry.kill(id)).toBe(true);
          else expect(await node.registry.killUser(`user ${index}`)).toBe(1);
          return onTheReplica(id);
        }),
      );
      left += found.reduce((sum, count) => sum + count, 0);
    }
    return left;
  }

  it(`${ROUNDS} sessions ended by destroy, kill and killUser: none is on the replica when that resolves`, async () => {
    const kept = await leftOver(await open());
    const without = await leftOver(await open({ waitForReplicas: 0 }));
    process.stdout.write(
      `ended sessions found on the replica: ${kept} with waitForReplicas, ${without} without\n`,
    );
    expect(kept).toBe(0);
    expect(without).toBeGreaterThan(ROUNDS / 2);
  });

  it('a replica that does not answer: destroy, kill and killUser reject in time, and the session has ended', async () => {
    const commandTimeout = 300;
    const node = await open({ commandTimeout: `${commandTimeout}ms` });
    await replica.pause();
    try {
      for (const end of ['destroy', 'kill', 'killUser'] as const) {
        const { token, id } = await node.sessions.create({}, { userId: 'ada' });
        const act = (): Promise<unknown> =>
          end === 'destroy'
            ? node.sessions.destroy(token)
            : end === 'kill'
              ? node.registry.kill(id)
              : node.registry.killUser('ada');
        const begun = performance.now();
        const failure: unknown = await act().catch((error: unknown) => error);
        const took = performance.now() - begun;
        expect(failure).toBeInstanceOf(SessionStoreUnavailableError);
        expect(failure).toMatchObject({ code: 'SESSION_NOT_REPLICATED' });
        expect(took).toBeLessThan(2 * commandTimeout + 200); // the script and the WAIT have one each at most
        // Ended all the same, here and for everybody who asks the master.
        expect(await onTheMaster(id)).toBe(0);
        expect(await node.sessions.get(token)).toBeNull();
        // And to be told again is no harm: the replica is still silent, so the answer is the same.
        await expect(act()).rejects.toMatchObject({ code: 'SESSION_NOT_REPLICATED' });
      }
    } finally {
      replica.resume();
    }
    await inSync();
    const { token, id } = await node.sessions.create({});
    expect(await node.sessions.destroy(token)).toBe(true);
    expect(await onTheReplica(id)).toBe(0);
    expect(await node.sessions.destroy(token)).toBe(false);
  });

  it('more replicas than there are: rejects with SESSION_NOT_REPLICATED', async () => {
    const node = await open({ waitForReplicas: 2, commandTimeout: '200ms' });
    const { token, id } = await node.sessions.create({});
    await expect(node.sessions.destroy(token)).rejects.toMatchObject({ code: 'SESSION_NOT_REPLICATED' });
    expect(await onTheMaster(id)).toBe(0);
  });

  it('twenty destroys at once with a silent replica: all have ended at once, and are told so in time', async () => {
    const commandTimeout = 400;
    const node = await open({ commandTimeout: `${commandTimeout}ms` });
    const sessions = await Promise.all(Array.from({ length: 20 }, () => node.sessions.create({})));
    await replica.pause();
    try {
      const begun = performance.now();
      const ending = sessions.map(({ token }) =>
        node.sessions.destroy(token).catch((error: unknown) => error),
      );
      await waitFor(
        async () => {
          const there = await Promise.all(sessions.map(({ id }) => onTheMaster(id)));
          return there.every((count) => count === 0);
        },
        { timeoutMs: 250, message: 'all of them to be gone from the master' }, // well before the first one is told
      );
      for (const failure of await Promise.all(ending))
        expect(failure).toMatchObject({ code: 'SESSION_NOT_REPLICATED' });
      expect(performance.now() - begun).toBeLessThan(2 * commandTimeout + 200);
    } finally {
      replica.resume();
    }
    await inSync();
  });

  it('while one destroy waits, other commands of the process go on', async () => {
    const node = await open({ commandTimeout: 3_000 }); // and so WAIT takes a second
    const doomed = await node.sessions.create({});
    await replica.pause();
    try {
      const begun = performance.now();
      let waiting = true;
      const ending = node.sessions
        .destroy(doomed.token)
        .catch((error: unknown) => error)
        .finally(() => (waiting = false));
      await waitFor(async () => (await onTheMaster(doomed.id)) === 0);
      let slowest = 0;
      let done = 0;
      while (performance.now() - begun < 500) {
        const from = performance.now();
        const { token } = await node.sessions.create({ n: 1 });
        await node.sessions.update(token, { n: 2 });
        expect(await node.sessions.get(token, { fresh: true })).toMatchObject({ data: { n: 2 } });
        slowest = Math.max(slowest, performance.now() - from);
        done++;
      }
      expect(waiting).toBe(true);
      expect(done).toBeGreaterThan(20);
      expect(slowest).toBeLessThan(250); // one behind the WAIT would have taken all of the time that is left
      expect(await ending).toMatchObject({ code: 'SESSION_NOT_REPLICATED' });
    } finally {
      replica.resume();
    }
    await inSync();
  });

  it('opens one connection more, and without the option none', async () => {
    const clients = async (): Promise<number> =>
      String(await onMaster.client('LIST'))
        .split('\n')
        .filter((line) => / flags=(?!S)/.test(line)).length;
    const used = async (waitForReplicas: number | undefined): Promise<number> => {
      const before = await clients();
      const node = await open(waitForReplicas === undefined ? { waitForReplicas } : { waitForReplicas });
      for (let n = 0; n < 5; n++) {
        const { token, id } = await node.sessions.create({}, { userId: 'ada' });
        await node.sessions.destroy(token);
        await node.registry.kill(id);
        await node.registry.killUser('ada');
      }
      const count = (await clients()) - before;
      await node.close();
      nodes.splice(nodes.indexOf(node), 1);
      await waitFor(async () => (await clients()) === before, { message: 'all connections to be closed' });
      return count;
    };
    expect(await used(undefined)).toBe(2);
    expect(await used(0)).toBe(2);
    expect(await used(1)).toBe(3);
  });

  it.each([-1, 1.5, Number.NaN, '1', null])('waitForReplicas: %s is refused at start', async (value) => {
    await expect(open({ waitForReplicas: value as number })).rejects.toMatchObject({
      message: expect.stringContaining('waitForReplicas') as string,
    });
  });
});

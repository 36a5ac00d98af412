// The way of a command through a Cluster whose slots move, with links that answer as the test says: what servers do then is
// shown on real ones in test/integration/cluster.integration-spec.ts, and cannot be timed to the step there.
import { Logger } from '@nestjs/common';
import { afterEach, describe, expect, it } from 'vitest';
import { SessionStoreUnavailableError } from '../../../lib/errors/state.errors.js';
import type { ClusterTopology } from '../../../lib/store/cluster-topology.js';
import { openOwnClient } from '../../../lib/store/redis-client.js';
import { RedisCluster } from '../../../lib/store/redis-cluster.js';
import { RedisConnection } from '../../../lib/store/redis-connection.js';
import type { Attempt, Reply } from '../../../lib/store/redis-links.js';
import { script } from '../../../lib/store/scripts/script.js';
import { ServerTime } from '../../../lib/store/server-time.js';

const TIMEOUT_MS = 400;
const OK: Reply = { value: 'done', uncertain: false, server: null };
const WRITE = script('return 1');

/** What an attempt meets, in turn; the last for ever. */
type Answer = Reply | SessionStoreUnavailableError | (() => Promise<Reply>);

const refused = (reply: string, outcomeUnknown = false): SessionStoreUnavailableError => {
  const cause = new Error(reply);
  cause.name = 'ReplyError';
  return new SessionStoreUnavailableError('save a session', reply, outcomeUnknown, { cause });
};

class Links {
  owners: (string | null)[] = ['a'];
  refreshes = 0;
  readonly sent: string[] = [];
  readonly retired: string[] = [];
  readonly redirected: number[] = [];
  /** Commands that a node was sent by an attempt, as `node: name`. */
  readonly commands: string[] = [];
  readonly cluster: RedisCluster;
  #changed: () => void = () => undefined;

  constructor(answers: Record<string, Answer[]>) {
    const topology = {
      start: async () => undefined,
      onChange: (listener: () => void) => (this.#changed = listener),
      refresh: () => this.refreshes++,
      close: () => undefined,
      lastProblem: '',
    };
    Object.defineProperty(topology, 'owners', { get: () => this.owners });
    this.cluster = new RedisCluster(
      topology as unknown as ClusterTopology,
      (node) => this.#link(node, answers[node] ?? []),
      () => 0,
      TIMEOUT_MS,
      () => undefined,
    );
    this.cluster.onRedirected((partition) => this.redirected.push(partition));
  }

  move(...owners: (string | null)[]): void {
    this.owners = owners;
    this.#changed();
  }

  write(): Promise<Reply> {
    return this.cluster.run('save a session', true, WRITE, ['k'], []);
  }

  #link(node: string, answers: Answer[]): RedisConnection {
    const client = Object.fromEntries(
      ['asking', 'evalsha'].map((name) => [name, async () => void this.commands.push(`${node}: ${name}`)]),
    );
    return {
      connected: true,
      breaker: 'closed',
      open: async () => undefined,
      close: async () => undefined,
      retire: async () => void this.retired.push(node),
      onLost: () => undefined,
      send: async (_operation: string, _writes: boolean, attempt: Attempt) => {
        this.sent.push(node);
        await attempt(client as never, false, { time: new ServerTime(async () => 0) });
        const answer = answers.length > 1 ? answers.shift()! : answers[0]!;
        if (answer instanceof Error) throw answer;
        return typeof answer === 'function' ? answer() : answer;
      },
    } as unknown as RedisConnection;
  }
}

const opened: Links[] = [];
async function open(answers: Record<string, Answer[]>): Promise<Links> {
  const links = new Links(answers);
  opened.push(links);
  await links.cluster.open();
  return links;
}
Logger.overrideLogger(false);
afterEach(async () => {
  for (const { cluster } of opened.splice(0)) await cluster.close();
});

describe('RedisCluster', () => {
  it('MOVED: the lease is told of, the table asked for, and the command sent to the new owner', async () => {
    const links: Links = await open({ a: [refused('MOVED 5 b')], b: [OK] });
    const written = links.write();
    setTimeout(() => links.move('b'), 30);
    expect(await written).toEqual(OK);
    expect(links.sent.at(-1)).toBe('b');
    expect(links.redirected[0]).toBe(0);
    expect(links.refreshes).toBeGreaterThan(0);
    expect(links.retired).toEqual(['a']);
  });

  it('ASK: once to the other node, each command behind ASKING, the lease is told of, and the owner stays', async () => {
    const links = await open({ a: [refused('ASK 5 b'), OK], b: [OK] });
    expect(await links.write()).toEqual(OK);
    expect(links.sent).toEqual(['a', 'b']);
    expect(links.commands).toEqual(['a: evalsha', 'b: asking', 'b: evalsha']);
    expect(links.redirected).toEqual([0]);
    await links.write();
    expect(links.sent).toEqual(['a', 'b', 'a']);
  });

  it.each(['TRYAGAIN Multiple keys', 'CLUSTERDOWN Hash slot not served'])(
    '%s: again and again until it is well, or the time is up, and nothing is unknown then',
    async (reply) => {
      const links = await open({ a: [refused(reply), refused(reply), OK] });
      expect(await links.write()).toEqual(OK);
      expect(links.sent).toHaveLength(3);
      const never = await open({ a: [refused(reply)] });
      const begun = performance.now();
      await expect(never.write()).rejects.toMatchObject({ outcomeUnknown: false });
      expect(performance.now() - begun).toBeLessThan(TIMEOUT_MS);
      expect(never.sent.length).toBeGreaterThan(3);
    },
  );

  it('a lost reply, then another owner: the answer of that one is uncertain', async () => {
    const links: Links = await open({
      a: [
        async () => {
          links.move('b');
          throw refused('the link broke', true);
        },
      ],
      b: [OK],
    });
    expect(await links.write()).toEqual({ ...OK, uncertain: true });
  });

  it('a lost reply, then a refusal by another owner: the outcome is unknown', async () => {
    const links: Links = await open({
      a: [
        async () => {
          links.move('b');
          throw refused('the link broke', true);
        },
      ],
      b: [refused('OOM command not allowed')],
    });
    await expect(links.write()).rejects.toMatchObject({
      outcomeUnknown: true,
      message: expect.stringMatching(/moved meanwhile/),
    });
  });

  it('any other refusal by the owner is final', async () => {
    const links = await open({ a: [refused('OOM command not allowed')] });
    await expect(links.write()).rejects.toMatchObject({ outcomeUnknown: false });
    expect(links.sent).toEqual(['a']);
  });

  it('no owner: waits for one, and no longer than a command may take', async () => {
    const links = await open({ b: [OK] });
    links.move(null);
    const begun = performance.now();
    setTimeout(() => links.move('b'), 30);
    expect(await links.write()).toEqual(OK);
    expect(performance.now() - begun).toBeLessThan(TIMEOUT_MS / 2);
    links.move(null);
    await expect(links.write()).rejects.toThrow(/no master.*commandTimeout/);
  });

  it('masters are told before a command can take the new way, each with its partitions', async () => {
    const links = await open({ a: [OK], b: [OK] });
    links.move('a', 'b', 'a');
    const told: unknown[] = [];
    links.cluster.follow((masters) => told.push(masters.map(({ node, partitions }) => [node, partitions])));
    links.move('b', 'b', 'a');
    expect(told).toEqual([
      [
        ['a', [0, 2]],
        ['b', [1]],
      ],
      [
        ['a', [2]],
        ['b', [0, 1]],
      ],
    ]);
  });
});

describe('RedisConnection.retire()', () => {
  it('gives up at once what waits for a link', async () => {
    const connection = new RedisConnection(
      () => openOwnClient('redis://127.0.0.1:1', 'nobody', 1_000), // nobody listens there
      async () => null,
      20_000,
      () => undefined,
    );
    const opening = connection.open();
    const waiting = connection.read(0, 'read', (client) => client.get('x')).catch((error: unknown) => error);
    const begun = performance.now();
    await connection.retire();
    expect(await waiting).toMatchObject({
      outcomeUnknown: false,
      message: expect.stringMatching(/moved to another master/),
    });
    expect(performance.now() - begun).toBeLessThan(5_000);
    void opening.catch(() => undefined);
  });
});

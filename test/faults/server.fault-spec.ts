// Faults of the server (COHERENCE tests 4 to 6): it drops subscribers, pauses its clients, stands still, dies. Two
// readers go through the same faults: one with the full protocol, one whose copies outlive their epoch and which must
// be caught.
import { afterEach, describe, expect, it } from 'vitest';
import { waitFor } from '../support/wait-for.js';
import { now } from './support/observation.js';
import { COHERENCE, Rig, type RigSettings } from './support/rig.js';

const { leaseMs } = COHERENCE;

describe('the near cache while the server fails', () => {
  let rig: Rig | undefined;
  afterEach(async () => {
    await rig?.close();
    rig = undefined;
  });
  const open = async (settings: Omit<RigSettings, 'readers'> = {}): Promise<Rig> =>
    (rig = await Rig.open({ ...settings, readers: { full: 'none', weak: 'epoch' } }));

  // Weakened: S is dropped by the server while the process looks away; what was published from then on is lost, and
  // the copies made before outlive the epoch.
  it('a reader that does not read is dropped by the server in a flood: no read over the bound', async () => {
    // Through a proxy the server would never notice: the proxy reads.
    const { redis, readers, prefix, observation } = await open({ direct: ['full', 'weak'] });
    await redis.config('SET', 'client-output-buffer-limit', 'pubsub 128kb 64kb 1');
    const subscribers = async (): Promise<number> =>
      ((await redis.call('PUBSUB', 'NUMSUB', `${prefix}inv`)) as [string, number])[1];
    expect(await subscribers()).toBe(readers.length);
    const { epoch } = await rig!.reader('full').state();

    const woken = Promise.all(readers.map((reader) => reader.block(leaseMs * 1.5)));
    const flood = Buffer.alloc(65_536, 'x');
    // Kernel buffers swallow some megabytes before the server's own begin to fill.
    await waitFor(
      async () => {
        const batch = Array.from({ length: 20 }, () => redis.publish(`${prefix}inv`, flood));
        await Promise.all(batch);
        return (await subscribers()) === 0;
      },
      { intervalMs: 1, message: 'the server to drop its subscribers' },
    );
    await woken;
    await rig!.reader('full').recovered();
    expect((await rig!.reader('full').state()).epoch).toBeGreaterThan(epoch);
    await observation.run(leaseMs * 1.5);
    await rig!.judge('S dropped in a flood');
  });

  // Weakened: each kill loses the messages until S is back. The pauses catch nobody, for nothing is written while they
  // last; they must do no harm.
  it('CLIENT KILL TYPE pubsub in a loop, CLIENT PAUSE: no read over the bound', async () => {
    const { redis, observation } = await open();
    const full = rig!.reader('full');
    const { epoch } = await full.state();
    let kills = 0;
    await waitFor(
      async () => {
        kills += Number(await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub'));
        return kills >= 16;
      },
      { intervalMs: 60, timeoutMs: 4_000, message: '16 kills' },
    );
    await full.recovered();
    expect((await full.state()).epoch).toBeGreaterThan(epoch + 3);
    for (const mode of ['ALL', 'WRITE']) {
      await redis.call('CLIENT', 'PAUSE', String(leaseMs * 1.2), mode);
      await observation.run(leaseMs * 1.2);
      await full.recovered();
    }
    await observation.run(leaseMs);
    await rig!.judge('CLIENT KILL and PAUSE');
  });

  // Weakened: the links are given up while the server stands still; what is written after it wakes and before S is
  // back is never heard of, and the copies made before outlive the epoch.
  it('SIGSTOP and SIGCONT of Redis: no read over the bound', async () => {
    // Many writers: each has a write under way when the server stops, and it is done before S can be back.
    const { server, observation } = await open({ load: { lanes: 16, pauseMs: 60 } });
    const full = rig!.reader('full');
    for (const ms of [leaseMs * 0.5, leaseMs * 1.5, leaseMs * 2]) {
      await server.pause();
      await observation.run(ms);
      server.resume();
      await full.recovered();
    }
    await observation.run(leaseMs * 1.5);
    await rig!.judge('Redis stopped');
  });

  // Weakened: the copies of sessions that the server has lost outlive the epoch. S waits for C, and what is read
  // between the two ends its copy by the store's own null: so that one reads slowly, or no such copy is left to catch.
  it('SIGKILL of Redis and an empty restart: the lost sessions are refused', async () => {
    await open({ paces: { weak: { burst: 5, everyMs: 10 } } });
    const full = rig!.reader('full');
    for (const downMs of [0, leaseMs * 0.8]) {
      const began = now();
      await rig!.restartEmpty({ downMs });
      await full.recovered();
      const { lastHit } = await full.state();
      expect(lastHit).toBeGreaterThan(began);
    }
    await rig!.run(leaseMs * 1.5);
    const { full: report } = await rig!.judge('Redis killed');
    expect(report!.nulls, 'lost sessions refused').toBeGreaterThan(100);
  });
});

// Faults of the subscriber link S (COHERENCE tests 1 to 3). Two readers go through the same faults, each behind its
// own proxies: one with the full protocol, one that lacks the rule the test is about and must be caught.
import { afterEach, describe, expect, it } from 'vitest';
import { waitFor } from '../support/wait-for.js';
import { now } from './support/observation.js';
import { COHERENCE, Rig, type RigSettings } from './support/rig.js';

const { leaseMs, heartbeatMs } = COHERENCE;

describe('the near cache while the subscriber link fails', () => {
  let rig: Rig | undefined;
  afterEach(async () => {
    await rig?.close();
    rig = undefined;
  });
  const open = async (settings: RigSettings): Promise<Rig> => (rig = await Rig.open(settings));

  // Weakened: copies outlive their epoch. What was written while S was away is never heard of, and the copies made
  // before go on being served on the new, sound connection.
  it('S reset and refused for 300 ms, again and again: no read over the bound', async () => {
    const { run, each, reader, judge } = bind(await open({ readers: { full: 'none', weak: 'epoch' } }));
    const { epoch } = await reader('full').state();
    const rounds = 3;
    let healed = 0;
    for (let round = 0; round < rounds; round++) {
      each(({ s }) => {
        s.refuse(true);
        s.cutAll();
      });
      await run(300);
      each(({ s }) => s.refuse(false));
      healed = now();
      await run(round === rounds - 1 ? 0 : 400 + 300 * Math.random());
    }
    await reader('full').recovered(healed);
    expect((await reader('full').state()).epoch).toBeGreaterThanOrEqual(epoch + rounds);
    // Time for the weakened one to be caught: a copy that missed its message is stale from now on.
    await run(leaseMs * 1.5);
    await judge('S reset');
  });

  // Weakened: no lease, a link counts as sound until it closes. A half-open one never does.
  it('S goes dead without FIN: serving stops at the lease, S is given up and connected anew', async () => {
    const { run, each, reader, judge } = bind(await open({ readers: { full: 'none', weak: 'lease' } }));
    const before = await reader('full').state();
    // First a network that swallows everything, new connections too: nothing may be served at all.
    const dead = now();
    each(({ s }) => s.blackhole());
    await run(leaseMs * 1.5);
    const silent = await reader('full').state();
    expect(silent.lastHit - dead, 'last answer from the cache, ms after the fault').toBeLessThanOrEqual(
      leaseMs,
    );
    expect(silent.lastHit - dead, 'the lease is used as long as it holds').toBeGreaterThan(0);
    expect(silent.live).toBe(false);
    expect((await reader('weak').state()).live).toBe(true);
    each(({ s }) => s.resume());
    await reader('full').recovered();

    // Then only the connections there are: a new one works, and must be opened without help.
    const { epoch } = await reader('full').state();
    const lost = now();
    each(({ s }) => s.abandon());
    const after = await reader('full').until('has a new epoch', (s) => s.live && s.epoch > epoch);
    expect(after.at - lost, 'ms until S is live again').toBeLessThan(leaseMs + heartbeatMs + 1_500);
    await reader('full').recovered(lost + leaseMs);
    await run(leaseMs * 1.5);
    const { epoch: last } = await reader('full').state();
    expect(last).toBeGreaterThanOrEqual(before.epoch + 2);
    await judge('S half-open');
  });

  // Weakened: copies outlive their epoch. A lease alone is renewed by the new connection's first answer, and the
  // messages lost with the old connection are never heard of. (The heartbeat in flight is the trap of ioredis: with
  // autoResendUnfulfilledCommands it is asked again on the new connection, and answered there.)
  it('only what S should receive is lost, with a heartbeat under way: its answer proves nothing', async () => {
    const {
      rig: current,
      run,
      each,
      reader,
      judge,
    } = bind(
      await open({
        readers: { full: 'none', weak: 'epoch' },
        coherence: { leaseMs, heartbeatMs: 100 },
      }),
    );
    const asked = async (): Promise<void> => {
      const { sCommands } = current.link('full');
      const seen = sCommands.length;
      await waitFor(() => sCommands.slice(seen).some((name) => /^(PING|ROLE)$/i.test(name)), {
        message: 'a heartbeat that reaches the server',
      });
    };
    // Late, but within the lease: the answer comes after the messages that were held with it, so the epoch goes on.
    const { epoch, heartbeats } = await reader('full').state();
    each(({ s }) => s.blackhole({ downstream: true }));
    await asked();
    await run(leaseMs * 0.3);
    each(({ s }) => s.resume());
    await reader('full').until('hears the late answers', (s) => s.heartbeats > heartbeats + 2);
    expect((await reader('full').state()).epoch).toBe(epoch);

    // Each answer takes half a lease to arrive, and then no more come: what counts is when the last one was asked for.
    // (Dating a proof at its answer, `this.#lease.prove(this.clock.monotonic())`, fails here with the full protocol.)
    {
      const { epoch: old } = await reader('full').state();
      each(({ s }) => s.delay({ downstreamMs: () => leaseMs * 0.5 }));
      await run(leaseMs * 0.8);
      each(({ s }) => {
        s.abandon({ downstream: true });
        s.delay({});
      });
      await reader('full').until('has a new epoch', (s) => s.live && s.epoch > old);
    }

    // Never: S is given up with a heartbeat unanswered; so twice, then held for longer than the lease and let go.
    for (let round = 0; round < 2; round++) {
      const { epoch: old } = await reader('full').state();
      each(({ s }) => s.abandon({ downstream: true }));
      await asked();
      await reader('full').until('has a new epoch', (s) => s.live && s.epoch > old);
      await run(300);
    }
    each(({ s }) => s.blackhole({ downstream: true }));
    await asked();
    await run(leaseMs * 1.3);
    expect((await reader('full').state()).live).toBe(false);
    each(({ s }) => s.resume());
    await reader('full').recovered();
    await run(leaseMs * 1.5);
    await judge('S deaf');
  });
});

/** The methods of a rig as plain functions. */
function bind(rig: Rig) {
  return {
    rig,
    run: (ms: number) => rig.run(ms),
    each: rig.each.bind(rig),
    reader: (name: string) => rig.reader(name),
    judge: (fault: string) => rig.judge(fault),
  };
}

// Random faults for minutes: `npm run test:soak -- 300` (seconds). Three readers keep the protocol, a fourth is plain
// pub/sub and shows what the faults do without it. Fails on any read over the bound, on a hit ratio below 0.8 while no
// fault is active, on a cache that does not serve again within 3 s after a fault, and on a crash.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { deal } from './support/faults.js';
import { describeReport, expectCoherent, now, RECOVERY_MS } from './support/observation.js';
import { COHERENCE, Rig } from './support/rig.js';

const SECONDS = Number(process.env.SOAK_SECONDS ?? 300);
const { leaseMs } = COHERENCE;
/** How long nothing is done to a system that has had its time to recover; hits are counted then. */
const QUIET_MS = 2_000;
const MIN_HIT_RATIO = 0.8;

const pace = { burst: 30, everyMs: 2 };

let rig: Rig;
beforeAll(async () => {
  rig = await Rig.open({
    readers: { a: 'none', b: 'none', direct: 'none', naive: 'naive' },
    direct: ['direct'],
    paces: { a: pace, b: pace, direct: pace, naive: pace },
  });
});
afterAll(() => rig?.close());

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const percent = (share: number): string => `${(share * 100).toFixed(1)}%`;

it(
  `${SECONDS} s of random faults: no read over the bound, and the cache in use`,
  { timeout: (SECONDS + 120) * 1_000 },
  async () => {
    const begun = now();
    const protectedReaders = rig.readers.filter(({ name }) => name !== 'naive');
    const late: string[] = [];
    let faults = 0;
    while (now() - begun < SECONDS * 1_000) {
      const dealt = deal();
      const name = dealt.map((fault) => fault.name).join(' + ');
      await Promise.all(dealt.map((fault) => fault.strike(rig)));
      faults += dealt.length;
      const healed = now();
      const recovered = await Promise.allSettled(protectedReaders.map((reader) => reader.recovered(healed)));
      const times = recovered.map((end) =>
        end.status === 'fulfilled' ? `${end.value.toFixed(0)} ms` : 'never',
      );
      for (const end of recovered) if (end.status === 'rejected') late.push(`${name}: ${String(end.reason)}`);
      say(
        `${((healed - begun) / 1_000).toFixed(0).padStart(4)} s  ${name}: serving again after ${times.join(', ')}`,
      );
      await rig.run(Math.max(0, healed + RECOVERY_MS - now()));
      await Promise.all(rig.readers.map((reader) => reader.quiet(true)));
      await rig.run(QUIET_MS);
      await Promise.all(rig.readers.map((reader) => reader.quiet(false)));
    }

    const { counts } = rig.observation;
    const reports = await rig.observation.finish();
    say(`\n${faults} faults in ${((now() - begun) / 1_000).toFixed(0)} s; writer: ${JSON.stringify(counts)}`);
    for (const [name, report] of Object.entries(reports)) {
      const ratio = report.quietHits / (report.quietHits + report.quietMisses);
      say(`${describeReport(name, leaseMs, report)}, hit ratio without faults ${percent(ratio)}`);
    }
    for (const { name } of protectedReaders) {
      const report = reports[name]!;
      expectCoherent(report, leaseMs);
      expect(report.quietHits / (report.quietHits + report.quietMisses), name).toBeGreaterThanOrEqual(
        MIN_HIT_RATIO,
      );
    }
    expect(late).toEqual([]);
  },
);

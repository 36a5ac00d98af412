// The faults of COHERENCE tests 1 to 7 as the soak deals them: each begins, lasts a random time and is over when its
// promise resolves. They may overlap, so each undoes what it did even if another one is at work.
import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from '../../support/wait-for.js';
import type { Reader } from './observation.js';
import type { Links, Rig } from './rig.js';

export interface Fault {
  name: string;
  /** Faults of the same kind do not overlap: they would undo each other. */
  kind: 'link' | 'server' | 'process';
  strike(rig: Rig): Promise<void>;
}

const between = (low: number, high: number): number => low + (high - low) * Math.random();
const oneOf = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)]!;

/** The links of one reader or of all, at random. */
function some(rig: Rig): Links[] {
  const all = rig.readers.map(({ name }) => rig.link(name));
  return Math.random() < 0.5 ? all : [oneOf(all)];
}

async function hold(ms: number, links: Links[], begin: (links: Links) => void, end: (links: Links) => void) {
  links.forEach(begin);
  await sleep(ms);
  links.forEach(end);
}

async function flood(rig: Rig): Promise<void> {
  const { redis, prefix, readers, leaseMs } = rig;
  await redis.config('SET', 'client-output-buffer-limit', 'pubsub 128kb 64kb 1');
  const blocked = readers.filter(({ name }) => rig.direct.includes(name));
  const id = async (name: string): Promise<string> =>
    new RegExp(`^id=(\\d+) .* name=sessionkit-sub:${name} `, 'm').exec(
      String(await redis.call('CLIENT', 'LIST', 'TYPE', 'pubsub')),
    )?.[1] ?? 'none';
  const before = await Promise.all(blocked.map(({ name }) => id(name)));
  const woken = Promise.all(blocked.map((reader) => reader.block(between(1, 1.5) * leaseMs)));
  const message = Buffer.alloc(65_536, 'x');
  let over = false;
  void woken.finally(() => (over = true));
  await waitFor(
    async () => {
      await Promise.all(Array.from({ length: 20 }, () => redis.publish(`${prefix}inv`, message)));
      const after = await Promise.all(blocked.map(({ name }) => id(name)));
      return over || after.every((value, k) => value !== before[k]);
    },
    { intervalMs: 1, message: 'the server to drop its subscribers' },
  );
  await woken;
}

async function freeze(rig: Rig, readers: Reader[]): Promise<void> {
  const spins = await Promise.all(readers.map((reader) => reader.spin(300)));
  for (const { worker } of readers) worker.pause();
  await sleep(between(0.5, 2) * rig.leaseMs);
  for (const { worker } of readers) worker.resume();
  await Promise.all(spins.map(({ done }) => done));
}

export const FAULTS: readonly Fault[] = [
  {
    name: 'S reset and refused',
    kind: 'link',
    strike: async (rig) => {
      const refuse = ({ s }: Links): void => {
        s.refuse(true);
        s.cutAll();
      };
      await hold(between(0, 600), some(rig), refuse, ({ s }) => s.refuse(false));
    },
  },
  {
    name: 'S and C reset',
    kind: 'link',
    strike: async (rig) => {
      const refuse = ({ s, c }: Links): void => {
        for (const link of [s, c]) {
          link.refuse(true);
          link.cutAll();
        }
      };
      const accept = ({ s, c }: Links): void => [s, c].forEach((link) => link.refuse(false));
      await hold(between(0, 600), some(rig), refuse, accept);
    },
  },
  {
    name: 'C reset',
    kind: 'link',
    strike: async (rig) => some(rig).forEach(({ c }) => c.cutAll()),
  },
  {
    name: 'S silent',
    kind: 'link',
    strike: (rig) =>
      hold(
        between(0.3, 2.5) * rig.leaseMs,
        some(rig),
        ({ s }) => s.blackhole(),
        ({ s }) => s.resume(),
      ),
  },
  {
    name: 'S deaf',
    kind: 'link',
    strike: (rig) =>
      hold(
        between(0.3, 2.5) * rig.leaseMs,
        some(rig),
        ({ s }) => s.blackhole({ downstream: true }),
        ({ s }) => s.resume(),
      ),
  },
  {
    name: 'S abandoned',
    kind: 'link',
    strike: (rig) =>
      // Over when the readers can know: they have no other sign than the lapse of the lease.
      hold(
        rig.leaseMs,
        some(rig),
        ({ s }) => s.abandon(),
        () => undefined,
      ),
  },
  {
    name: 'C silent',
    kind: 'link',
    strike: (rig) =>
      hold(
        between(0.3, 2) * rig.leaseMs,
        some(rig),
        ({ c }) => c.blackhole(),
        ({ c }) => c.resume(),
      ),
  },
  {
    name: 'S and C slow',
    kind: 'link',
    strike: (rig) => {
      const upstreamMs = (): number => between(1, 40);
      return hold(
        between(1, 2) * rig.leaseMs,
        some(rig),
        ({ s, c }) => [s, c].forEach((link) => link.delay({ upstreamMs, downstreamMs: upstreamMs })),
        ({ s, c }) => [s, c].forEach((link) => link.delay({})),
      );
    },
  },
  {
    name: 'CLIENT KILL TYPE pubsub in a loop',
    kind: 'server',
    strike: async ({ redis }) => {
      for (let kill = 0; kill < 10; kill++) {
        await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
        await sleep(between(10, 150));
      }
    },
  },
  {
    name: 'CLIENT KILL of all',
    kind: 'server',
    strike: async ({ redis }) => {
      await redis.call('CLIENT', 'KILL', 'SKIPME', 'yes');
    },
  },
  ...(['ALL', 'WRITE'] as const).map((mode): Fault => ({
    name: `CLIENT PAUSE ${mode}`,
    kind: 'server',
    strike: async ({ redis, leaseMs }) => {
      const ms = Math.round(between(0.5, 2) * leaseMs);
      await redis.call('CLIENT', 'PAUSE', String(ms), mode);
      await sleep(ms);
    },
  })),
  {
    name: 'SIGSTOP of Redis',
    kind: 'server',
    strike: async ({ server, leaseMs }) => {
      await server.pause();
      await sleep(between(0.5, 2.5) * leaseMs);
      server.resume();
    },
  },
  {
    name: 'SIGKILL of Redis, empty restart',
    kind: 'server',
    strike: (rig) => rig.restartEmpty({ downMs: between(0, 1) * rig.leaseMs }),
  },
  { name: 'flood of blocked subscribers', kind: 'process', strike: flood },
  {
    name: 'SIGSTOP of readers',
    kind: 'process',
    strike: (rig) => freeze(rig, Math.random() < 0.5 ? rig.readers : [oneOf(rig.readers)]),
  },
  {
    name: 'event loops blocked',
    kind: 'process',
    strike: async ({ readers, leaseMs }) => {
      await Promise.all(readers.map((reader) => reader.block(between(0.3, 2) * leaseMs)));
    },
  },
];

/** One fault, or now and then two of different kinds at once. */
export function deal(): Fault[] {
  const first = oneOf(FAULTS);
  if (Math.random() >= 0.3) return [first];
  return [first, oneOf(FAULTS.filter(({ kind }) => kind !== first.kind))];
}

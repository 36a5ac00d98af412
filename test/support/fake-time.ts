// Child processes whose clocks are wrong, by libfaketime (Debian package `faketime`); this process keeps the true time.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** What a process is told of time: `+1h`, `-30m`, `+10s`; `+0` is the truth. */
export type Offset = `${'+' | '-'}${number}${'' | 's' | 'm' | 'h'}`;

type Environment = Record<string, string>;

/** The library to preload, as `faketime` itself names it; null where that is not installed. */
function findLibrary(): string | null {
  const { status, stdout } = spawnSync('faketime', ['-m', '-f', '+0', 'env'], { encoding: 'utf8' });
  return status === 0 ? (/^LD_PRELOAD=(\S+)$/m.exec(stdout)?.[1] ?? null) : null;
}

const library = findLibrary();

/** Why tests with wrong clocks cannot run here; null: they can. */
export const WITHOUT_FAKETIME =
  library === null ? 'faketime is not installed (Debian: apt-get install faketime)' : null;

/** @param monotonic whether the monotonic clock is wrong too; else only what `Date` shows is */
function environment(monotonic: boolean): Environment {
  if (library === null) throw new Error(`fake-time: ${WITHOUT_FAKETIME}`);
  return { LD_PRELOAD: library, ...(!monotonic && { DONT_FAKE_MONOTONIC: '1' }) };
}

/** The environment of a process whose clock is wrong from the start. */
export function wrongBy(offset: Offset, { monotonic = false } = {}): Environment {
  return { ...environment(monotonic), FAKETIME: offset };
}

/** A clock that is set while processes run by it. */
export class MovableClock {
  readonly #directory = mkdtempSync(join(tmpdir(), 'sessionkit-clock-'));
  readonly #file = join(this.#directory, 'offset');
  readonly #monotonic: boolean;

  /** @param monotonic see {@link wrongBy} */
  constructor({ monotonic = false } = {}) {
    this.#monotonic = monotonic;
    this.set('+0');
  }

  /** For processes that go by it. */
  get env(): Environment {
    // Without a cache the file is read at every look at the clock.
    return {
      ...environment(this.#monotonic),
      FAKETIME_TIMESTAMP_FILE: this.#file,
      FAKETIME_NO_CACHE: '1',
    };
  }

  /** From now on the clock is that much off the true time. At once, for every process. */
  set(offset: Offset): void {
    writeFileSync(`${this.#file}.new`, `${offset}\n`);
    renameSync(`${this.#file}.new`, this.#file); // no look finds half of it
  }

  close(): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

import {
  SessionArgumentError,
  SessionOptionsError,
  type SessionStore,
  type SessionStoreCapabilities,
} from '../index.js';

/** What the suite needs of a test runner; vitest, jest, mocha and node:test have it. */
export interface SuiteRunner {
  readonly describe: (name: string, body: () => void) => unknown;
  /** @param timeoutMs for tests that need longer than others; a runner that has no such argument overlooks it */
  readonly it: (name: string, body: () => Promise<void>, timeoutMs?: number) => unknown;
}

/** A store with nothing in it, for one test. */
export interface OpenedStore {
  /** Opened already, where it has to be. */
  readonly store: SessionStore;
  /** Another store over the same sessions, as a second process would have it; default `store` itself. */
  readonly peer?: SessionStore;
  /** Moves the store's clock by that many milliseconds; without it, the suite waits until they have passed. */
  readonly advance?: (ms: number) => void;
  /** Closes what was opened and removes what is left, after a failed test too. */
  close?(): Promise<void>;
}

/** A capability that tests may need. */
export type Capability = 'versions' | 'index' | 'aliases';

/** What a test gets. */
export interface Opened extends Pick<OpenedStore, 'store' | 'advance'> {
  readonly peer: SessionStore;
  /** Who writes at the same moment: the peer where the store has versions, otherwise the store, in the same process. */
  readonly rival: SessionStore;
  readonly can: SessionStoreCapabilities;
}

/** Declares a test over a store of its own. */
export type DeclareTest = (title: string, body: (opened: Opened) => unknown, timeoutMs?: number) => void;

/** What the files of the suite declare their tests with. */
export interface Suite {
  readonly describe: SuiteRunner['describe'];
  readonly test: DeclareTest;
  /** Tests that are skipped where the store lacks something. */
  readonly needing: (...capabilities: Capability[]) => DeclareTest;
}

export function createSuite({ describe, it }: SuiteRunner, open: () => Promise<OpenedStore>): Suite {
  const needing =
    (...needed: Capability[]): DeclareTest =>
    (title, body, timeoutMs) => {
      // Rest parameters: jest and mocha take one that is named for a callback.
      const run = async function (this: unknown, ...context: unknown[]): Promise<void> {
        const opened = await open();
        const { store, peer = store, advance } = opened;
        try {
          const can = store.capabilities;
          const missing = needed.find((capability) => can[capability] !== true);
          if (missing !== undefined) return skip(`no capabilities.${missing}`, context[0], this);
          await body({
            store,
            peer,
            rival: can.versions === true ? peer : store,
            can,
            ...(advance && { advance }),
          });
        } catch (error) {
          if (!cannotList(error)) throw error;
          skip('the store cannot list its sessions', context[0], this);
        } finally {
          await opened.close?.();
        }
      };
      it(title, run, timeoutMs);
    };
  return { describe, test: needing(), needing };
}

/**
 * A store over one that cannot list says so of itself, by an error about the argument `store`, and Redis about the option
 * `index` that leaves it out; of nothing else may they.
 */
const cannotList = (error: unknown): boolean =>
  ((error instanceof SessionArgumentError && error.argument === 'store') ||
    (error instanceof SessionOptionsError && /^index\b/.test(error.option))) &&
  /\b(?:listed|counted|list|count)\b/.test(error.message);

/** What a store can do is known only once it is open, so a test is skipped from inside, in the runner's own way. */
function skip(reason: string, ...offers: unknown[]): void {
  for (const offer of offers) {
    // vitest and node:test hand over a context (vitest's is a function), mocha has it as `this`; jest has neither, and the
    // test counts as passed.
    const skipping = offer as { skip?: (reason: string) => void } | null | undefined;
    if (typeof skipping?.skip === 'function') return skipping.skip(reason);
  }
}

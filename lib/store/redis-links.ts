import type { Redis } from 'ioredis';
import type { RedisConnection } from './redis-connection.js';
import type { Script } from './scripts/script.js';
import type { ServerTime } from './server-time.js';

export type Argument = string | number;

export interface Reply {
  readonly value: unknown;
  /** Whether an earlier try of the same command may have been run without our learning of it. */
  readonly uncertain: boolean;
  /** `run_id` of the server that answered; null where it does not tell. */
  readonly server: string | null;
}

/**
 * What a command is for, and so what a server that does not answer means to it: `request`: somebody waits for it;
 * `background`: its failure says nothing of the server, a batch of them may just have met the same moment; `repair`: it is
 * tried whatever is known of the server, for it undoes what was half done.
 */
export type CommandPurpose = 'request' | 'background' | 'repair';

/** What is sent on a link in one turn of the event loop, and written to its socket at once when the turn ends. */
export interface Turn {
  /** What is asked here is asked in front of whatever is sent after it. */
  readonly time: ServerTime;
}

/** Sends commands; `forgotten` after the server said that it does not know the script. */
export type Attempt<T = unknown> = (client: Redis, forgotten: boolean, turn: Turn) => Promise<T>;

/** The way to the sessions: one connection, or one to each master of a Cluster. All of a command's keys are of one partition. */
export interface RedisLinks {
  /** Connects, and waits for it no longer than `commandTimeoutMs`. */
  open(): Promise<void>;
  close(): Promise<void>;
  /** True while every partition can be reached. */
  readonly connected: boolean;
  /** `open`: commands, in a Cluster those to one of its masters, are refused at once, because those before them got no answer. */
  readonly breaker: 'closed' | 'open';
  /**
   * Runs a script.
   *
   * @param operation names it in the error
   * @param writes whether a lost reply leaves the outcome unknown
   * @throws {SessionStoreUnavailableError}
   */
  run(
    operation: string,
    writes: boolean,
    script: Script,
    keys: readonly string[],
    args: readonly Argument[],
    purpose?: CommandPurpose,
  ): Promise<Reply>;
  /**
   * Runs plain commands on keys of one partition.
   *
   * @throws {SessionStoreUnavailableError}
   */
  read<T>(partition: number, operation: string, command: Attempt<T>, purpose?: CommandPurpose): Promise<T>;
  /** The connection to the master of this partition; null while none is known. */
  linkOf(partition: number): RedisConnection | null;
}

/** Sends a script by its SHA, or whole to a server that does not know it. */
export function evaluation(
  { lua, sha }: Pick<Script, 'lua' | 'sha'>,
  keys: readonly string[],
  args: readonly Argument[],
): Attempt {
  return (client, forgotten) =>
    forgotten
      ? client.eval(lua, keys.length, ...keys, ...args)
      : client.evalsha(sha, keys.length, ...keys, ...args);
}

/** What `TIME` answers, as whole epoch milliseconds. */
export function milliseconds([seconds, micros]: readonly (number | string)[]): number {
  return Number(seconds) * 1000 + Math.floor(Number(micros) / 1000);
}

import { Logger } from '@nestjs/common';
import type { Redis } from 'ioredis';
import type { StoreConnection } from '../core/store-connection.interface.js';
import { SessionOptionsError } from '../errors/caller.errors.js';
import { SessionStoreUnavailableError } from '../errors/state.errors.js';
import { CommandBreaker } from './command-breaker.js';
import {
  isMidScript,
  isNoScript,
  isNotMaster,
  isReply,
  wasNotSent,
  withoutArguments,
} from './redis-error.js';
import {
  evaluation,
  milliseconds,
  type Argument,
  type Attempt,
  type CommandPurpose,
  type RedisLinks,
  type Reply,
  type Turn,
} from './redis-links.js';
import type { Script } from './scripts/script.js';
import { ServerTime } from './server-time.js';

/**
 * A server that failed its check is asked again, on a new link, after the first of these, doubled each time up to the
 * second, and not by all processes at the same moment.
 */
const RECHECK_MS = { first: 250, most: 1_000 };

/**
 * Commands of one turn that are written together. With all of many in one write, the server would stand idle until they
 * are all made, and this process until they are all answered.
 */
const MAX_GATHERED = 16;

/**
 * Where this process was held up while commands were gathered, so that they have only just left when their time is up: so
 * long an answer is waited for.
 */
const ON_THE_WAY_MS = 100;

/** The real one: while an app's tests fake it, or afterwards, no link may stay corked. */
const immediately = setImmediate;

/** A connection that ioredis has given up for good is begun anew after this. */
const REVIVE_MS = 50;

/**
 * The command connection C: our own, opened by {@link open}, closed by {@link close}.
 *
 * A command is given up after `commandTimeoutMs` in all, and a moment later where this process was held up so long that it
 * has only just left. Within that time a broken link is waited for and the command sent again: scripts carry a nonce that
 * makes this safe. Nothing is given to a link after its caller was told 503. Where some in a row have got no answer, those
 * that follow are refused at once, until there is one again ({@link CommandBreaker}).
 */
export class RedisConnection implements StoreConnection, RedisLinks {
  readonly #logger = new Logger('SessionModule');
  readonly #lost = new Set<() => void>();
  readonly #waiting = new Set<() => void>();
  readonly #breaker: CommandBreaker;
  #client: Redis | null = null;
  #usable = false;
  #closed = false;
  #retired = false;
  #wasReady = false;
  #saidAvailable = false;
  #turn: GatheredTurn | null = null;
  #time: { readonly stream: Stream; readonly of: ServerTime } | undefined;
  /** Something was written to the socket in this turn of the event loop. */
  #hasSent = false;
  #pending = 0;
  #drained: (() => void) | undefined;
  #lastProblem = '';
  #failures = 0;
  #recheck: NodeJS.Timeout | undefined;
  #server: string | null = null;
  #watch: NodeJS.Timeout | undefined;

  /**
   * @param connect makes the client, not yet connected
   * @param check run on every new link before the first command; resolves to the server's `run_id`, null where it does
   *   not tell; a rejection keeps the link unused
   * @param onAvailable told `false` when the link is lost and `true` when it is back
   * @param roleCheckMs how often the server is asked whether it is still the master; 0 = never
   */
  constructor(
    private readonly connect: () => Promise<Redis>,
    private readonly check: (client: Redis) => Promise<string | null>,
    private readonly commandTimeoutMs: number,
    private readonly onAvailable: (available: boolean) => void,
    private readonly roleCheckMs = 0,
  ) {
    this.#breaker = new CommandBreaker(
      () => this.#ping(),
      commandTimeoutMs,
      (isOpen) => this.#say(!isOpen && this.#usable),
    );
  }

  /**
   * Connects and waits for the first usable link, for `commandTimeoutMs` at the most: an app may boot while Redis is
   * away, and answers 503 until it is back.
   *
   * @throws {SessionOptionsError} if that is what `check` rejected with: the options do not fit this server
   */
  async open(): Promise<void> {
    const client = await this.connect();
    if (this.#closed) return client.disconnect();
    this.#client = client;
    if (this.roleCheckMs > 0) this.#watch = setInterval(() => this.#askRole(), this.roleCheckMs).unref();
    let lastError = 'no connection';
    client.on('error', (error: unknown) => {
      lastError = withoutArguments(error).message;
      this.#logger.debug(`Redis: ${lastError}`);
    });
    client.on('close', () => this.#onLost());
    client.on('end', () => this.#revive(client));
    let failure: SessionOptionsError | undefined;
    const checked = new Promise<void>((resolve) => {
      client.on('ready', () => {
        this.#wasReady = true;
        this.check(client).then(
          (server) => {
            this.#server = server;
            this.#onUsable(client);
            resolve();
          },
          (error: unknown) => {
            if (error instanceof SessionOptionsError) failure = error;
            this.#onCheckFailed(client, withoutArguments(error).message);
            resolve();
          },
        );
      });
    });
    client.connect().catch(() => undefined); // retried by retryStrategy; 'error' has logged it
    await this.#within(checked);
    if (failure !== undefined) throw failure;
    if (!this.#usable && !this.#retired) {
      this.#logger.warn(
        `Redis does not answer yet (${lastError}): requests that need a session get 503 until it does. Check the "redis" option.`,
      );
    }
  }

  get connected(): boolean {
    return this.#usable;
  }

  /** `run_id` of the server last attached to; null where it does not tell. */
  get server(): string | null {
    return this.#server;
  }

  /** `open`: commands are refused at once, because those before them got no answer. */
  get breaker(): 'closed' | 'open' {
    return this.#breaker.isOpen ? 'open' : 'closed';
  }

  onLost(listener: () => void): void {
    this.#lost.add(listener);
  }

  async serverRunId(): Promise<string> {
    const runId = /^run_id:(\w+)/m.exec(await this.#attached().info('server'))?.[1];
    if (runId === undefined) throw new Error('the server does not tell its run_id');
    return runId;
  }

  async exists(key: string): Promise<boolean> {
    return (await this.#attached().exists(key)) === 1;
  }

  async serverRole(): Promise<string> {
    const [role] = (await this.#attached().call('ROLE')) as unknown[];
    return String(role);
  }

  suspect(why: 'role' | 'silence'): void {
    // A former master may still take itself for one; Sentinels lead to the new one.
    if (why === 'silence' && this.#client?.options.sentinels) this.#giveUp();
    else this.#askRole();
  }

  /** Answered by anything, an error reply too; an unanswered one lies before all that follows it on the link. */
  async #ping(): Promise<void> {
    try {
      await this.#attached().ping();
    } catch (error) {
      if (!isReply(error)) throw error;
    }
  }

  /** A demoted server keeps its connections, and its scripts still read. */
  #askRole(): void {
    if (!this.#usable) return;
    this.serverRole().then(
      (role) => {
        if (role !== 'master') this.#giveUp();
      },
      () => undefined, // the link is gone, which takes its own course; or an ACL forbids ROLE, and a write will tell
    );
  }

  #giveUp(): void {
    const client = this.#client;
    if (!this.#usable || client === null) return; // it has been, or a check is under way
    this.#onLost(); // at once, and not when the socket has closed
    client.disconnect(true);
  }

  #attached(): Redis {
    if (!this.#usable || this.#client === null) throw new Error('the command connection is down');
    return this.#client;
  }

  run(
    operation: string,
    writes: boolean,
    script: Script,
    keys: readonly string[],
    args: readonly Argument[],
    purpose?: CommandPurpose,
  ): Promise<Reply> {
    return this.send(operation, writes, evaluation(script, keys, args), purpose);
  }

  read<T>(_partition: number, operation: string, command: Attempt<T>, purpose?: CommandPurpose): Promise<T> {
    return this.send(operation, false, command, purpose).then((reply) => reply.value as T);
  }

  linkOf(): this {
    return this;
  }

  /** For a connection that nothing leads to any more: what still waits for its link is given up at once. */
  async retire(): Promise<void> {
    this.#retired = true;
    for (const wake of this.#waiting) wake();
    await this.close();
  }

  async close(): Promise<void> {
    this.#breaker.close();
    clearTimeout(this.#recheck);
    clearInterval(this.#watch);
    // What is under way may finish, over a new link if need be; `commandTimeoutMs` ends it otherwise.
    if (this.#pending > 0) await this.#within(new Promise<void>((resolve) => (this.#drained = resolve)));
    this.#closed = true;
    this.#usable = false;
    clearTimeout(this.#recheck); // set anew meanwhile, it would open the connection again
    const client = this.#client;
    if (client === null) return;
    if (client.status === 'ready') await this.#within(client.quit().catch(() => undefined));
    client.disconnect();
    for (const wake of this.#waiting) wake();
  }

  /** Waits for it, but no longer than `commandTimeoutMs`. */
  async #within(promise: Promise<unknown>): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await Promise.race([
      promise,
      new Promise((resolve) => (timer = setTimeout(resolve, this.commandTimeoutMs))),
    ]);
    clearTimeout(timer);
  }

  /**
   * Sends commands, again after a broken link, until they are answered or the time is up.
   *
   * @param timeoutMs what is left of `commandTimeoutMs`
   * @throws {SessionStoreUnavailableError}
   */
  send(
    operation: string,
    writes: boolean,
    attempt: Attempt,
    purpose: CommandPurpose = 'request',
    timeoutMs = this.commandTimeoutMs,
  ): Promise<Reply> {
    if (this.#breaker.isOpen && purpose !== 'repair') {
      return Promise.reject(
        new SessionStoreUnavailableError(
          operation,
          'Redis has left the last commands without an answer, so that this one was not sent',
          false,
        ),
      );
    }
    return new Promise((resolve, reject) => {
      let settled = false;
      let sent = false;
      let forgotten = false;
      let cause: Error | undefined;
      this.#pending++;
      const settle = () => {
        settled = true;
        clearTimeout(timer);
        if (--this.#pending === 0) this.#drained?.();
      };
      const fail = (detail: string) => {
        settle();
        this.#waiting.delete(go);
        reject(new SessionStoreUnavailableError(operation, detail, writes && sent, cause && { cause }));
      };
      let turn: GatheredTurn | undefined;
      let isExtended = false;
      const onTimeout = () => {
        if (settled) return;
        if (!isExtended && turn !== undefined && heldBackFor(turn) > timeoutMs / 2) {
          isExtended = true;
          timer = setTimeout(() => setImmediate(onTimeout), Math.min(ON_THE_WAY_MS, timeoutMs));
          return;
        }
        fail(`no answer from Redis within ${this.commandTimeoutMs} ms (option "commandTimeout")`);
        // Little time was left of a command that had been elsewhere before: it may just have been too little.
        if (purpose === 'request' && timeoutMs >= this.commandTimeoutMs / 2) this.#breaker.onSilence();
      };
      // Where this process was held up itself, the answer may lie in the socket, which is read before this is called.
      let timer = setTimeout(() => setImmediate(onTimeout), timeoutMs);
      const go = () => {
        if (settled) return;
        if (this.#closed) return fail('the app is shutting down');
        const client = this.#client;
        if (!this.#usable || client === null) {
          if (this.#retired) return fail('its sessions have moved to another master');
          this.#waiting.add(go); // woken when the link is back, ended by the timer
          return;
        }
        this.#waiting.delete(go);
        const uncertain = sent;
        sent = true;
        turn = this.#gather(client);
        attempt(client, forgotten, turn).then(
          (value) => {
            if (settled) return;
            settle();
            if (this.#breaker.isDoubtful) this.#breaker.onAnswer();
            resolve({ value, uncertain, server: this.#server });
          },
          (error: unknown) => {
            if (settled) return;
            cause = withoutArguments(error);
            if (isReply(error)) {
              if (this.#breaker.isDoubtful) this.#breaker.onAnswer();
              if (isNotMaster(error)) this.#giveUp();
              // An error reply means that this try changed nothing, but in the middle of a script; an earlier one may have.
              sent = uncertain || isMidScript(error);
              if (isNoScript(error)) {
                forgotten = true;
                return go();
              }
              return fail(cause.message);
            }
            if (wasNotSent(error)) sent = uncertain;
            // The link broke. 'close' may come a moment later than the rejection: never spin on a dead client.
            this.#usable &&= client.status === 'ready';
            setImmediate(go);
          },
        );
      };
      go();
    });
  }

  /**
   * Gathers what is sent in one turn of the event loop into few writes to the socket: a system call each would cost more
   * than everything else a command does here. What comes first goes at once, with all that was woken with it by answers
   * that arrived together; requests that arrived together come each for itself, and the rest of them go together.
   */
  #gather(client: Redis): GatheredTurn {
    const { stream } = client; // the link may be another one when the turn ends
    if (this.#turn?.stream === stream) {
      if (++this.#turn.commands % MAX_GATHERED === 0) {
        stream.uncork();
        stream.cork();
      }
      return this.#turn;
    }
    if (this.#time?.stream !== stream)
      this.#time = { stream, of: new ServerTime(() => client.time().then(milliseconds)) };
    const turn: GatheredTurn = (this.#turn = {
      stream,
      time: this.#time.of,
      commands: 0,
      beganAt: performance.now(),
      leftAt: Infinity,
    });
    stream.cork();
    const send = () => {
      if (this.#turn === turn) this.#turn = null;
      stream.uncork();
      turn.leftAt = performance.now();
    };
    if (this.#hasSent) immediately(send);
    else {
      this.#hasSent = true;
      process.nextTick(send);
      immediately(() => (this.#hasSent = false));
    }
    return turn;
  }

  #onUsable(client: Redis): void {
    if (this.#closed || client.status !== 'ready') return;
    this.#usable = true;
    this.#failures = 0;
    this.#lastProblem = '';
    this.#breaker.onAnswer();
    this.#say(true);
    for (const wake of this.#waiting) wake();
  }

  /** A Sentinel's notice in the middle of a reconnection ends an ioredis client for good (6.0.0, FailoverDetector). */
  #revive(client: Redis): void {
    if (this.#closed) return;
    clearTimeout(this.#recheck);
    this.#recheck = setTimeout(() => void client.connect().catch(() => undefined), REVIVE_MS).unref();
  }

  /** The link is up but must not be used. A new one may lead to a server that has been set right. */
  #onCheckFailed(client: Redis, message: string): void {
    if (this.#closed || client.status !== 'ready') return;
    if (message !== this.#lastProblem) this.#logger.error(`The session store is not usable: ${message}`);
    this.#lastProblem = message;
    const wait = Math.min(RECHECK_MS.first * 2 ** this.#failures++, RECHECK_MS.most);
    this.#recheck = setTimeout(() => client.disconnect(true), wait * (0.75 + Math.random() / 4)).unref();
  }

  #onLost(): void {
    clearTimeout(this.#recheck);
    this.#usable = false;
    // Also when the link broke during its check: whoever relied on the server's identity must know.
    if (this.#wasReady) for (const listener of this.#lost) listener();
    this.#wasReady = false;
    this.#say(false);
  }

  #say(available: boolean): void {
    if (available === this.#saidAvailable) return;
    this.#saidAvailable = available;
    if (!this.#closed) this.onAvailable(available);
  }
}

type Stream = Redis['stream'];

/** Milliseconds that the commands of the turn have waited for its end. */
function heldBackFor({ beganAt, leftAt }: GatheredTurn): number {
  return Math.min(leftAt, performance.now()) - beganAt;
}

interface GatheredTurn extends Turn {
  readonly stream: Stream;
  commands: number;
  readonly beganAt: number;
  /** When the last of them was written to the socket, by `performance.now()`; Infinity before. */
  leftAt: number;
}

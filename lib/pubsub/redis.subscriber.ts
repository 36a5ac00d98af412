import { Logger } from '@nestjs/common';
import type { Redis } from 'ioredis';
import { SYSTEM_CLOCK, type Clock } from '../core/clock.js';
import type { InvalidationSource } from '../core/session-cache.interface.js';
import type { StoreConnection } from '../core/store-connection.interface.js';
import type { SessionEvents, SubscriberState } from '../events/session-events.js';
import { parseInvalidation } from './invalidation-message.js';
import { Lease } from './lease.js';

/** What the composition root hands over when there is a Redis. */
export interface SubscriberLink {
  /** Makes the subscriber connection S, not yet connected. */
  connect(): Promise<Redis>;
  readonly channel: string;
  /** The store's command connection C. */
  readonly commands: StoreConnection;
  readonly instanceId: string;
  readonly leaseMs: number;
  readonly heartbeatMs: number;
}

/**
 * Counts since start.
 *
 * @publicApi
 */
export interface SubscriberCounts {
  /** Epochs begun: the first, and one after each loss of a link or of the proof. */
  readonly epochs: number;
  /** Heartbeats answered. */
  readonly heartbeats: number;
  /** Invalidations received, this process's own among them. */
  readonly messages: number;
  /** Messages on the channel that were no invalidations. */
  readonly malformed: number;
  /** Copies that were not stored because the session changed, or the lease ended, while it was being read. */
  readonly refusedFills: number;
}

/**
 * After an epoch could not be opened (no rights on the channel, C not back yet), the next try comes after the first of
 * these, doubled each time up to the second, and not in all processes at the same moment.
 */
const RETRY_MS = { first: 250, most: 1_000 };
/** A connection that ioredis has given up for good is begun anew after this. */
const REVIVE_MS = 50;

/**
 * Receives what other processes changed, on a connection of its own, and knows whether it may have missed something.
 *
 * An **epoch** is a stretch of time in which nothing can have been missed: it ends when either connection breaks or no
 * proof came for `leaseMs`, and a new one begins only when the subscription is confirmed, both connections are attached
 * to the same master, and that master has answered on S (COHERENCE rules 2 and 3). Copies of an earlier epoch are never
 * served.
 *
 * Within an epoch the **lease** allows to answer from copies: a heartbeat every `heartbeatMs` asks the server on S.
 * What it published before its answer has come in before the answer, so at the moment the question was sent nothing
 * was missing (rule 4).
 *
 * @publicApi
 */
export class RedisSubscriber implements InvalidationSource {
  readonly #logger = new Logger('SessionModule');
  readonly #listeners: ((id: string, version: number) => void)[] = [];
  readonly #lease: Lease;
  #client: Redis | undefined;
  #retry: NodeJS.Timeout | undefined;
  #heart: NodeJS.Timeout | undefined;
  /** Asks the master something on S that it answers after all it has published. */
  #ask: (client: Redis) => Promise<void> = askRole;
  /** The state but for time: a lease may have run out that no timer has seen yet. */
  #state: SubscriberState;
  #epoch = 0;
  /** The newest epoch that was live and has ended. */
  #past = { epoch: -1, until: -Infinity };
  #epochs = 0;
  #heartbeats = 0;
  #messages = 0;
  #malformed = 0;
  #refusedFills = 0;
  #closed = false;
  #lastProblem = '';
  #failures = 0;

  /**
   * @internal provided by `SessionModule`
   *
   * @param link null when there is nothing to listen to
   * @param liveWithoutLink whether copies may be kept then (this process is the only writer)
   */
  constructor(
    private readonly link: SubscriberLink | null,
    private readonly events: SessionEvents,
    private readonly liveWithoutLink: boolean,
    private readonly clock: Clock = SYSTEM_CLOCK,
  ) {
    this.#state = link === null ? 'off' : 'connecting';
    this.#lease = new Lease(link?.leaseMs ?? 0);
  }

  get state(): SubscriberState {
    return this.#state === 'live' && !this.live ? 'suspended' : this.#state;
  }

  /** True while copies may be served and stored. */
  get live(): boolean {
    return this.isLiveAt(this.clock.monotonic());
  }

  /** @internal */
  isLiveAt(now: number): boolean {
    return this.#state === 'live' ? this.#lease.holdsAt(now) : this.#state === 'off' && this.liveWithoutLink;
  }

  /** @internal */
  provenUntil(epoch: number, now: number): number {
    if (this.#state === 'off') return this.liveWithoutLink ? now : -Infinity;
    if (this.#state === 'live') return epoch === this.#epoch ? this.#lease.until : -Infinity;
    return epoch === this.#past.epoch ? this.#past.until : -Infinity;
  }

  /** Grows whenever copies become void. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Milliseconds since the newest proof that nothing was missed; null when there is none in this epoch. */
  get proofAge(): number | null {
    const age = this.#lease.ageAt(this.clock.monotonic());
    return age === Infinity ? null : age;
  }

  get counts(): SubscriberCounts {
    return {
      epochs: this.#epochs,
      heartbeats: this.#heartbeats,
      messages: this.#messages,
      malformed: this.#malformed,
      refusedFills: this.#refusedFills,
    };
  }

  /** @internal */
  onInvalidation(listener: (id: string, version: number) => void): void {
    this.#listeners.push(listener);
  }

  /** @internal */
  countRefusedFill(): void {
    this.#refusedFills++;
  }

  /** @internal Begins to connect; does not wait for it. */
  async start(): Promise<void> {
    if (this.link === null) return;
    const client = await this.link.connect();
    if (this.#closed) return client.disconnect();
    this.#client = client;
    client.on('error', () => undefined); // 'close' follows, and ends the epoch
    client.on('close', () => this.#endEpoch('the subscriber connection was lost'));
    client.on('end', () => {
      this.#endEpoch('the subscriber connection was lost');
      this.#tryAgainIn(REVIVE_MS);
    });
    client.on('ready', () => void this.#beginEpoch(client));
    client.on('message', (_channel: string, text: unknown) => this.#receive(text));
    this.link.commands.onLost(() => {
      this.#endEpoch('the command connection was lost');
      this.#reconnect();
    });
    this.#heart = setInterval(() => this.#beat(client), this.link.heartbeatMs).unref();
    client.connect().catch(() => undefined); // retried by the connection's own strategy
  }

  /** @internal */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    clearInterval(this.#heart);
    this.#endEpoch('the app is shutting down');
    this.#client?.disconnect();
  }

  async #beginEpoch(client: Redis): Promise<void> {
    const epoch = this.#epoch;
    let askedAt: number;
    try {
      // Asked before SUBSCRIBE: on RESP2 a subscribed connection answers nothing but PING.
      const [info] = await Promise.all([client.info('server'), askRole(client)]);
      const runId = /^run_id:(\w+)/m.exec(info)?.[1];
      await client.subscribe(this.link!.channel);
      const ofStore = await this.link!.commands.serverRunId().catch(() => {
        throw new StoreAwayError('the command connection is down');
      });
      if (runId === undefined || runId !== ofStore) {
        throw new Error('the subscriber and the command connection are attached to different servers');
      }
      askedAt = this.clock.monotonic();
      await this.#firstHeartbeat(client);
    } catch (error) {
      if (error instanceof NotMasterError) this.link!.commands.suspect('role');
      // Where the link broke meanwhile, its next 'ready' tries again.
      if (epoch === this.#epoch && client.status === 'ready') this.#onProblem(error);
      return;
    }
    if (epoch !== this.#epoch || this.#closed) return; // the same
    clearTimeout(this.#retry);
    this.#failures = 0;
    this.#lastProblem = '';
    this.#epochs++;
    this.#lease.prove(askedAt);
    this.#become('live', null);
  }

  /** On RESP3 a subscribed connection takes commands, so one question answers both; on RESP2 it takes two. */
  async #firstHeartbeat(client: Redis): Promise<void> {
    this.#ask = askRole;
    try {
      await this.#ask(client);
    } catch (error) {
      if (!isSubscriberMode(error)) throw error;
      const { commands } = this.link!;
      // A demoted server keeps S open and answers PING. That C is attached to the same one is known since the epoch
      // began, for the loss of either connection ends it.
      this.#ask = async (subscribed) => {
        const [, role] = await Promise.all([subscribed.ping(), commands.serverRole()]);
        mustBeMaster(role);
      };
      await this.#ask(client);
    }
  }

  #beat(client: Redis): void {
    if (this.#state !== 'live') return;
    const epoch = this.#epoch;
    const askedAt = this.clock.monotonic();
    if (this.#hasLapsed(askedAt)) return;
    this.#ask(client).then(
      () => {
        if (epoch !== this.#epoch || this.#hasLapsed(this.clock.monotonic())) return;
        this.#heartbeats++;
        this.#lease.prove(askedAt);
      },
      (error: unknown) => {
        // A broken link ends the epoch by itself. Anything else is an answer, and not the one that is needed.
        if (epoch !== this.#epoch || client.status !== 'ready') return;
        if (error instanceof NotMasterError) this.link!.commands.suspect('role');
        this.#endEpoch(messageOf(error));
        this.#onProblem(error);
      },
    );
  }

  /**
   * A lease that ran out does not come back: its connection is suspect, and a new epoch begins on a new one. So is the
   * store's: this process may have slept through a failover, and still be attached to the former master.
   */
  #hasLapsed(now: number): boolean {
    if (this.#lease.holdsAt(now)) return false;
    this.#endEpoch(`no proof for ${this.link!.leaseMs} ms`);
    this.#reconnect();
    this.link!.commands.suspect('silence');
    return true;
  }

  #endEpoch(reason: string): void {
    if (this.#state === 'live') this.#past = { epoch: this.#epoch, until: this.#lease.until };
    this.#epoch++;
    this.#lease.end();
    if (this.#state === 'live') this.#become('suspended', reason);
  }

  #become(state: SubscriberState, reason: string | null): void {
    this.#state = state;
    this.events.emit('lease', { state, epoch: this.#epoch, reason });
  }

  #onProblem(error: unknown): void {
    if (this.#closed) return;
    // A store that is away comes back by itself and needs no line here; anything else is said once until it changes.
    const problem = messageOf(error).slice(0, 200);
    if (!(error instanceof StoreAwayError) && problem !== this.#lastProblem) {
      this.#lastProblem = problem;
      this.#logger.warn(
        `The near cache is off, sessions are read from Redis: ${problem}. The subscriber needs INFO, ROLE, PING and ` +
          `SUBSCRIBE on "${this.link!.channel}", on the same master as the store.`,
      );
    }
    const wait = Math.min(RETRY_MS.first * 2 ** this.#failures++, RETRY_MS.most);
    this.#tryAgainIn(wait * (0.75 + Math.random() / 4));
  }

  /** One timer for every reason, so that none can call another's off. */
  #tryAgainIn(ms: number): void {
    clearTimeout(this.#retry);
    if (!this.#closed) this.#retry = setTimeout(() => this.#reconnect(), ms).unref();
  }

  #reconnect(): void {
    const client = this.#client;
    if (this.#closed || client === undefined) return;
    if (client.status === 'ready') client.disconnect(true);
    // A Sentinel's notice in the middle of a reconnection ends an ioredis client for good (6.0.0, FailoverDetector).
    else if (client.status === 'end') client.connect().catch(() => undefined);
  }

  /** Never throws: ioredis would turn that into an uncaught exception. */
  #receive(text: unknown): void {
    const message = parseInvalidation(text);
    if (message === null) {
      this.#malformed++;
      return;
    }
    this.#messages++;
    const { operation, id, version, origin } = message;
    for (const listener of this.#listeners) listener(id, operation === 'destroy' ? Infinity : version);
    if (origin !== this.link!.instanceId) this.events.emit('message', { operation, id, origin });
  }
}

class NotMasterError extends Error {}
class StoreAwayError extends Error {}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : 'unknown error';
}

function mustBeMaster(role: unknown): void {
  if (role !== 'master') throw new NotMasterError('the subscriber connection is not attached to a master');
}

async function askRole(client: Redis): Promise<void> {
  const reply = (await client.call('ROLE')) as unknown[];
  mustBeMaster(reply[0]);
}

/** What ioredis says to a command that a subscribed RESP2 connection does not take; nothing has been sent. */
function isSubscriberMode(error: unknown): boolean {
  return error instanceof Error && /subscriber mode/.test(error.message);
}

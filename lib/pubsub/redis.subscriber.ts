import { Logger } from '@nestjs/common';
import type { Redis } from 'ioredis';
import type { InvalidationSource } from '../core/session-cache.interface.js';
import type { StoreConnection } from '../core/store-connection.interface.js';
import type { SessionEvents } from '../events/session-events.js';
import { parseInvalidation } from './invalidation-message.js';

/**
 * - `off`: there is nothing to listen to (memory store, foreign store, or `cache: false`).
 * - `connecting`: no subscription has been confirmed yet.
 * - `live`: every change since the epoch began has arrived or will arrive on this connection.
 * - `suspended`: the link was lost; copies are void until a new epoch begins.
 *
 * @publicApi
 */
export type SubscriberState = 'off' | 'connecting' | 'live' | 'suspended';

/** What the composition root hands over when there is a Redis. */
export interface SubscriberLink {
  /** Makes the subscriber connection S, not yet connected. */
  connect(): Promise<Redis>;
  readonly channel: string;
  /** The store's command connection C. */
  readonly commands: StoreConnection;
  readonly instanceId: string;
}

/** After an epoch could not be opened (no rights on the channel, C not back yet), the next try comes after this. */
const RETRY_MS = 250;

/**
 * Receives what other processes changed, on a connection of its own, and knows whether it may have missed something.
 *
 * An **epoch** is a stretch of time in which nothing can have been missed: it ends when either connection breaks, and
 * a new one begins only when the subscription is confirmed, both connections are attached to the same master, and that
 * master has answered on S (COHERENCE rules 2 and 3). Copies of an earlier epoch are never served.
 *
 * @publicApi
 */
export class RedisSubscriber implements InvalidationSource {
  readonly #logger = new Logger('SessionModule');
  readonly #listeners: ((id: string, version: number) => void)[] = [];
  #client: Redis | undefined;
  #retry: NodeJS.Timeout | undefined;
  #state: SubscriberState;
  #epoch = 0;
  #messages = 0;
  #malformed = 0;
  #closed = false;
  #lastProblem = '';

  constructor(
    private readonly link: SubscriberLink | null,
    private readonly events: SessionEvents,
    /** Without a link: whether copies may be kept (this process is the only writer). */
    private readonly liveWithoutLink: boolean,
  ) {
    this.#state = link === null ? 'off' : 'connecting';
  }

  get state(): SubscriberState {
    return this.#state;
  }

  /** True while copies may be served and stored. */
  get live(): boolean {
    return this.#state === 'live' || (this.#state === 'off' && this.liveWithoutLink);
  }

  get epoch(): number {
    return this.#epoch;
  }

  /** Invalidations received, and messages that were none. */
  get counts(): { readonly messages: number; readonly malformed: number } {
    return { messages: this.#messages, malformed: this.#malformed };
  }

  /** @internal */
  onInvalidation(listener: (id: string, version: number) => void): void {
    this.#listeners.push(listener);
  }

  /** @internal Begins to connect; does not wait for it. */
  async start(): Promise<void> {
    if (this.link === null) return;
    const client = await this.link.connect();
    this.#client = client;
    client.on('error', () => undefined); // 'close' follows, and ends the epoch
    client.on('close', () => this.#endEpoch());
    client.on('end', () => this.#endEpoch());
    client.on('ready', () => void this.#beginEpoch(client));
    client.on('message', (_channel: string, text: unknown) => this.#receive(text));
    this.link.commands.onLost(() => {
      this.#endEpoch();
      this.#reconnect();
    });
    client.connect().catch(() => undefined); // retried by the connection's own strategy
  }

  /** @internal */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#endEpoch();
    this.#client?.disconnect();
  }

  async #beginEpoch(client: Redis): Promise<void> {
    const epoch = this.#epoch;
    try {
      // Asked before SUBSCRIBE: on RESP2 a subscribed connection answers nothing but PING.
      const [info, role] = await Promise.all([
        client.info('server'),
        client.call('ROLE') as Promise<unknown[]>,
      ]);
      if (role[0] !== 'master') throw new Error('the subscriber connection is not attached to a master');
      const runId = /^run_id:(\w+)/m.exec(info)?.[1];
      await client.subscribe(this.link!.channel);
      if (runId === undefined || runId !== (await this.link!.commands.serverRunId())) {
        throw new Error('the subscriber and the command connection are attached to different servers');
      }
      await client.ping();
    } catch (error) {
      this.#onProblem(error instanceof Error ? error.message : 'unknown error');
      return;
    }
    if (epoch !== this.#epoch || this.#closed) return; // the link broke meanwhile; the next 'ready' tries again
    this.#lastProblem = '';
    this.#state = 'live';
  }

  #endEpoch(): void {
    this.#epoch++;
    if (this.#state === 'live') this.#state = 'suspended';
  }

  #onProblem(message: string): void {
    if (this.#closed) return;
    // A broken link comes back by itself and needs no line; anything else is said once until it changes.
    const problem = message.slice(0, 200);
    if (this.#client?.status === 'ready' && problem !== this.#lastProblem) {
      this.#lastProblem = problem;
      this.#logger.warn(
        `The near cache is off, sessions are read from Redis: ${problem}. The subscriber needs INFO, ROLE, PING and ` +
          `SUBSCRIBE on "${this.link!.channel}", on the same master as the store.`,
      );
    }
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#reconnect(), RETRY_MS).unref();
  }

  #reconnect(): void {
    if (!this.#closed && this.#client?.status === 'ready') this.#client.disconnect(true);
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

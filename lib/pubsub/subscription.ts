import { Logger } from '@nestjs/common';
import type { Redis } from 'ioredis';
import type { Clock } from '../core/clock.js';
import type { StoreConnection } from '../core/store-connection.interface.js';
import type { CopyEpoch } from '../core/session-cache.interface.js';
import type { Lease } from './lease.js';

/** A channel on which one server announces changes, and what is known of having heard all of it. */
export interface Channel {
  readonly name: string;
  readonly lease: Lease;
  /**
   * In a Cluster a key of the channel's slot that is never set: whoever says that it does not exist owns the slot. Null
   * for a channel of a server that stands alone.
   */
  readonly probe: string | null;
}

/** What is listened to: the channels of one master, the same that the store's connection is attached to. */
export interface SubscribedServer {
  /** Makes the subscriber connection S, not yet connected. */
  connect(): Promise<Redis>;
  /** The store's command connection C. */
  readonly commands: StoreConnection;
}

/** What a subscription tells. */
export interface SubscriptionListener {
  onMessage(text: unknown): void;
  onOpened(channel: Channel): void;
  onHeartbeat(): void;
  /** Leases have ended. */
  onEnded(reason: string): void;
}

/**
 * After an epoch could not be opened (no rights on the channel, C not back yet), the next try comes after the first of
 * these, doubled each time up to the second, and not in all processes at the same moment.
 */
const RETRY_MS = { first: 250, most: 1_000 };
/** A connection that ioredis has given up for good is begun anew after this. */
const REVIVE_MS = 50;

/**
 * The subscriber connection S to one master, and the leases on what that announces.
 *
 * An epoch ends when either connection breaks or no proof came for `leaseMs`, and a new one begins only when the
 * subscription is confirmed, both connections are attached to the same master, and that master has answered on S
 * (COHERENCE rules 2 and 3). In a Cluster each slot has a lease of its own, for slots move one by one.
 */
export class Subscription {
  readonly #logger = new Logger('SessionModule');
  readonly #opening = new Set<Channel>();
  #channels: readonly Channel[];
  #client: Redis | undefined;
  #retry: NodeJS.Timeout | undefined;
  #heart: NodeJS.Timeout | undefined;
  /** Grows with each loss of a connection; what was begun before it counts for nothing. */
  #attempt = 0;
  /** The connection has been found to lead to the store's master. */
  #attached = false;
  /** Whether S takes commands although it is subscribed; RESP2 does not. */
  #takesCommands = true;
  #closed = false;
  #lastProblem = '';
  #failures = 0;

  constructor(
    private readonly server: SubscribedServer,
    channels: readonly Channel[],
    private readonly times: { readonly leaseMs: number; readonly heartbeatMs: number },
    private readonly clock: Clock,
    private readonly listener: SubscriptionListener,
  ) {
    this.#channels = channels;
  }

  /** Begins to connect; does not wait for it. */
  async start(): Promise<void> {
    const client = await this.server.connect();
    if (this.#closed) return client.disconnect();
    this.#client = client;
    client.on('error', () => undefined); // 'close' follows, and ends the epoch
    client.on('close', () => this.#endEpoch('the subscriber connection was lost'));
    client.on('end', () => {
      this.#endEpoch('the subscriber connection was lost');
      this.#tryAgainIn(REVIVE_MS);
    });
    client.on('ready', () => void this.#attach(client));
    client.on('moved', () => {
      // The server has taken a slot's subscription back, or refused one: ioredis does not say whose.
      for (const channel of this.#channels)
        if (channel.lease.isOpen && !isSubscribedTo(client, channel)) this.#onTakenBack(client, channel);
    });
    for (const event of ['message', 'smessage'])
      client.on(event, (_channel: string, text: unknown) => this.listener.onMessage(text));
    this.server.commands.onLost(() => {
      this.#endEpoch('the command connection was lost');
      this.#reconnect();
    });
    this.#heart = setInterval(() => this.#beat(client), this.times.heartbeatMs).unref();
    client.connect().catch(() => undefined); // retried by the connection's own strategy
  }

  /** In a Cluster: of the slots listened to so far, the others have another master now. */
  keepOnly(channels: readonly Channel[]): void {
    const gone = this.#channels.filter((channel) => !channels.includes(channel));
    if (gone.length === 0) return;
    this.#channels = this.#channels.filter((channel) => channels.includes(channel));
    for (const { lease, name } of gone) {
      lease.end();
      if (this.#attached) this.#client?.sunsubscribe(name).catch(() => undefined);
    }
    this.listener.onEnded('a slot has another master');
  }

  /** In a Cluster: all slots that the server owns now. */
  listenTo(channels: readonly Channel[]): void {
    this.#channels = channels;
    if (this.#attached) this.#openAll(this.#client!);
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    clearInterval(this.#heart);
    this.#endEpoch('the app is shutting down');
    this.#channels = []; // another may listen to them from now on: what ends here later is none of their business
    this.#client?.disconnect();
  }

  async #attach(client: Redis): Promise<void> {
    const attempt = this.#attempt;
    try {
      // Asked before SUBSCRIBE: on RESP2 a subscribed connection answers nothing but PING.
      const [info] = await Promise.all([client.info('server'), askRole(client)]);
      const runId = /^run_id:(\w+)/m.exec(info)?.[1];
      const ofStore = await this.server.commands.serverRunId().catch(() => {
        throw new StoreAwayError('the command connection is down');
      });
      if (runId === undefined || runId !== ofStore) {
        throw new Error('the subscriber and the command connection are attached to different servers');
      }
    } catch (error) {
      this.#onFailure(client, attempt, error);
      return;
    }
    // That C is attached to the same server stays true: the loss of either connection ends what begins here.
    if (attempt !== this.#attempt || this.#closed) return;
    this.#attached = true;
    this.#takesCommands = true;
    this.#openAll(client);
  }

  #openAll(client: Redis): void {
    for (const channel of this.#channels) if (!channel.lease.isOpen) void this.#open(client, channel);
  }

  async #open(client: Redis, channel: Channel): Promise<void> {
    if (this.#opening.has(channel)) return;
    const attempt = this.#attempt;
    const { lease, name, probe } = channel;
    const { epoch } = lease;
    this.#opening.add(channel);
    try {
      await (probe === null ? client.subscribe(name) : client.ssubscribe(name));
      const askedAt = this.clock.monotonic();
      await this.#ask(client, channel);
      if (attempt !== this.#attempt || epoch !== lease.epoch || !this.#channels.includes(channel)) return;
      if (!isSubscribedTo(client, channel)) return; // taken back already; the next beat tries again
      lease.prove(askedAt);
    } catch (error) {
      if (isElsewhere(error)) this.server.commands.suspect('role');
      else this.#onFailure(client, attempt, error);
      return;
    } finally {
      this.#opening.delete(channel);
    }
    clearTimeout(this.#retry);
    this.#failures = 0;
    this.#lastProblem = '';
    this.listener.onOpened(channel);
  }

  /**
   * Asks the master something that it answers on S after all it has published.
   *
   * A demoted server keeps S open and answers PING, hence ROLE; one that lost a single slot is master all the same, hence
   * a key of the slot (COHERENCE, traps c and d). Where a subscribed connection takes no commands, C asks.
   */
  async #ask(client: Redis, { probe }: Channel): Promise<void> {
    const { commands } = this.server;
    if (this.#takesCommands) {
      try {
        await (probe === null ? askRole(client) : client.exists(probe));
        return;
      } catch (error) {
        if (!isSubscriberMode(error)) throw error;
        this.#takesCommands = false;
      }
    }
    if (probe === null) {
      const [, role] = await Promise.all([client.ping(), commands.serverRole()]);
      mustBeMaster(role);
    } else {
      await Promise.all([client.ping(), commands.exists(probe)]);
    }
  }

  #beat(client: Redis): void {
    if (!this.#attached) return;
    for (const channel of this.#channels) {
      const { lease } = channel;
      const { epoch } = lease;
      const askedAt = this.clock.monotonic();
      if (!lease.isOpen) {
        if (channel.probe !== null) void this.#open(client, channel); // its slot may have come back
        continue;
      }
      if (this.#hasLapsed(lease, askedAt)) return;
      this.#ask(client, channel).then(
        () => {
          if (epoch !== lease.epoch || this.#hasLapsed(lease, this.clock.monotonic())) return;
          if (!isSubscribedTo(client, channel)) return this.#onTakenBack(client, channel);
          lease.prove(askedAt);
          this.listener.onHeartbeat();
        },
        (error: unknown) => this.#onUnproved(client, channel, epoch, error),
      );
    }
  }

  /** A broken link ends the epoch by itself. Anything else is an answer, and not the one that is needed. */
  #onUnproved(client: Redis, { lease }: Channel, epoch: CopyEpoch, error: unknown): void {
    if (epoch !== lease.epoch || client.status !== 'ready') return;
    if (isElsewhere(error)) {
      lease.end();
      this.listener.onEnded('a slot has another master');
      this.server.commands.suspect('role');
      return;
    }
    if (error instanceof NotMasterError) this.server.commands.suspect('role');
    this.#endEpoch(messageOf(error));
    this.#onProblem(error);
  }

  /** A slot that went and came back between two heartbeats: its owner answers, and has announced nothing since. */
  #onTakenBack(client: Redis, channel: Channel): void {
    channel.lease.end();
    this.listener.onEnded('a slot has another master');
    void this.#open(client, channel);
  }

  /**
   * A lease that ran out does not come back: its connection is suspect, and a new epoch begins on a new one. So is the
   * store's: this process may have slept through a failover, and still be attached to the former master.
   */
  #hasLapsed(lease: Lease, now: number): boolean {
    if (lease.isLiveAt(now)) return false;
    this.#endEpoch(`no proof for ${this.times.leaseMs} ms`);
    this.#reconnect();
    this.server.commands.suspect('silence');
    return true;
  }

  #endEpoch(reason: string): void {
    this.#attempt++;
    this.#attached = false;
    this.#opening.clear();
    for (const { lease } of this.#channels) lease.end();
    this.listener.onEnded(reason);
  }

  /** Where the link broke meanwhile, its next 'ready' tries again. */
  #onFailure(client: Redis, attempt: number, error: unknown): void {
    if (attempt !== this.#attempt) return;
    if (error instanceof NotMasterError) this.server.commands.suspect('role');
    if (client.status === 'ready') this.#onProblem(error);
  }

  #onProblem(error: unknown): void {
    if (this.#closed) return;
    // A store that is away comes back by itself and needs no line here; anything else is said once until it changes.
    const problem = messageOf(error).slice(0, 200);
    if (!(error instanceof StoreAwayError) && problem !== this.#lastProblem) {
      this.#lastProblem = problem;
      const [first] = this.#channels;
      const rights =
        first?.probe === null ? 'INFO, ROLE, PING and SUBSCRIBE' : 'INFO, ROLE, EXISTS and SSUBSCRIBE';
      this.#logger.warn(
        `The near cache is off, sessions are read from Redis: ${problem}. The subscriber needs ${rights} on ` +
          `"${first?.name}", on the same master as the store.`,
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

/**
 * In a Cluster the server takes a subscription back when it loses the slot, before it answers anything else, and does not
 * give it back with the slot.
 */
function isSubscribedTo(client: Redis, { name, probe }: Channel): boolean {
  const subscribed = client.condition?.subscriber;
  return probe === null || (!!subscribed && subscribed.channels('ssubscribe').includes(name));
}

/** In a Cluster: this server does not, or will soon not, own the slot; or nobody does at the moment. */
function isElsewhere(error: unknown): boolean {
  return error instanceof Error && /^(MOVED|ASK|TRYAGAIN|CLUSTERDOWN) ?/.test(error.message);
}

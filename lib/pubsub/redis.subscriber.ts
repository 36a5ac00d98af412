import { SYSTEM_CLOCK, type Clock } from '../core/clock.js';
import type { CopyEpoch, InvalidationSource } from '../core/session-cache.interface.js';
import { partitionOfId } from '../core/session-token.js';
import type { SessionEvents, SubscriberState } from '../events/session-events.js';
import { parseInvalidation } from './invalidation-message.js';
import { Lease, unending } from './lease.js';
import { Subscription, type Channel, type SubscribedServer } from './subscription.js';

interface LinkOptions {
  readonly instanceId: string;
  readonly leaseMs: number;
  readonly heartbeatMs: number;
}

/** What the composition root hands over when there is one Redis. */
export interface SubscriberLink extends SubscribedServer, LinkOptions {
  readonly channel: string;
}

/** A master of a Cluster and the partitions it owns. */
export interface SubscribedMaster extends SubscribedServer {
  readonly partitions: readonly number[];
}

/** What it hands over when there is a Cluster. */
export interface ClusterSubscriberLink extends LinkOptions {
  /** Name of each partition's channel, and of a key beside it that is never set. */
  readonly channels: readonly { readonly name: string; readonly probe: string }[];
  /** Tells the masters now and whenever they change, in the same step as commands take their new way. */
  follow(onMasters: (masters: readonly SubscribedMaster[]) => void): void;
  /** Tells of a command that was sent on to another master than the one listened to. */
  onRedirected(listener: (partition: number) => void): void;
}

/**
 * Counts since start.
 *
 * @publicApi
 */
export interface SubscriberCounts {
  /** Epochs begun: the first, and one after each loss of a link or of the proof. In a Cluster each partition's count. */
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
 * Receives what other processes changed, on connections of its own, and knows whether it may have missed something.
 *
 * An **epoch** is a stretch of time in which nothing can have been missed: it ends when either connection breaks or no
 * proof came for `leaseMs`, and a new one begins only when the subscription is confirmed, both connections are attached
 * to the same master, and that master has answered (COHERENCE rules 2 and 3). Copies of an earlier epoch are never
 * served.
 *
 * Within an epoch the **lease** allows to answer from copies: a heartbeat every `heartbeatMs` asks the server on S.
 * What it published before its answer has come in before the answer, so at the moment the question was sent nothing
 * was missing (rule 4).
 *
 * In a Cluster there is a connection to each master that owns a partition, and a lease for each partition: a master that
 * is lost suspends its own partitions only.
 *
 * @publicApi
 */
export class RedisSubscriber implements InvalidationSource {
  readonly #listeners: ((id: string, version: number) => void)[] = [];
  /** One for everything, or one for each partition. */
  readonly #leases: readonly Lease[];
  readonly #channels: readonly Channel[];
  readonly #subscriptions = new Map<object, Subscription>();
  /** Where nothing is listened to: as good as the process is alone. */
  readonly #alone: CopyEpoch;
  /** The state but for time: a lease may have run out that no timer has seen yet. */
  #state: SubscriberState;
  #epochs = 0;
  #heartbeats = 0;
  #messages = 0;
  #malformed = 0;
  #refusedFills = 0;
  #closed = false;

  /**
   * @internal provided by `SessionModule`
   *
   * @param link null when there is nothing to listen to
   * @param liveWithoutLink whether copies may be kept then (this process is the only writer)
   */
  constructor(
    private readonly link: SubscriberLink | ClusterSubscriberLink | null,
    private readonly events: SessionEvents,
    liveWithoutLink: boolean,
    private readonly clock: Clock = SYSTEM_CLOCK,
  ) {
    this.#state = link === null ? 'off' : 'connecting';
    this.#alone = unending(liveWithoutLink);
    const channels =
      link === null ? [] : 'follow' in link ? link.channels : [{ name: link.channel, probe: null }];
    this.#channels = channels.map((channel) => ({ ...channel, lease: new Lease(link!.leaseMs) }));
    this.#leases = this.#channels.map(({ lease }) => lease);
  }

  get state(): SubscriberState {
    return this.#state === 'live' && !this.live ? 'suspended' : this.#state;
  }

  /** True while copies, in a Cluster of every partition, may be served and stored. */
  get live(): boolean {
    return this.isLiveAt(this.clock.monotonic());
  }

  /** In a Cluster the partitions whose sessions are read from Redis at the moment; with one Redis `[0]` for all, or none. */
  get suspended(): readonly number[] {
    const now = this.clock.monotonic();
    return this.#leases.flatMap((lease, partition) => (lease.isLiveAt(now) ? [] : [partition]));
  }

  /** @internal What is known of the sessions among which this one is. */
  epochOf(id: string): CopyEpoch {
    const leases = this.#leases;
    if (leases.length <= 1) return leases[0]?.epoch ?? this.#alone;
    return leases[partitionOfId(id, leases.length) ?? 0]!.epoch;
  }

  /** @internal */
  isLiveAt(now: number): boolean {
    return this.#state === 'off'
      ? now < this.#alone.liveUntil
      : this.#leases.every((lease) => lease.isLiveAt(now));
  }

  /** Grows whenever copies become void. */
  get epoch(): number {
    let sum = 0;
    for (const { ended } of this.#leases) sum += ended;
    return sum;
  }

  /** Milliseconds since the newest proof that nothing was missed, in a Cluster the oldest of those; null when there is none. */
  get proofAge(): number | null {
    const now = this.clock.monotonic();
    const age = Math.max(...this.#leases.map((lease) => lease.ageAt(now)));
    return Number.isFinite(age) ? age : null;
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
    const { link } = this;
    if (link === null) return;
    if (!('follow' in link)) return this.#listenTo(link, this.#channels);
    link.follow((masters) => this.#follow(masters));
    link.onRedirected((partition) => {
      this.#leases[partition]!.end();
      this.#onEnded('a slot is moving');
    });
  }

  /** @internal */
  async close(): Promise<void> {
    this.#closed = true;
    for (const subscription of this.#subscriptions.values()) subscription.close();
    this.#subscriptions.clear();
  }

  async #listenTo(server: SubscribedServer, channels: readonly Channel[]): Promise<void> {
    const subscription = new Subscription(server, channels, this.link!, this.clock, {
      onMessage: (text) => this.#receive(text),
      onOpened: () => this.#onOpened(),
      onHeartbeat: () => this.#heartbeats++,
      onEnded: (reason) => this.#onEnded(reason),
    });
    this.#subscriptions.set(server.commands, subscription);
    await subscription.start();
  }

  #follow(masters: readonly SubscribedMaster[]): void {
    if (this.#closed) return;
    const channelsOf = new Map(
      masters.map((master) => [
        master.commands,
        master.partitions.map((partition) => this.#channels[partition]!),
      ]),
    );
    // What a master has lost ends first: a lease is never in two hands.
    for (const [commands, subscription] of this.#subscriptions) {
      const channels = channelsOf.get(commands as SubscribedServer['commands']);
      if (channels !== undefined) {
        subscription.keepOnly(channels);
        continue;
      }
      subscription.close();
      this.#subscriptions.delete(commands);
    }
    for (const master of masters) {
      const channels = channelsOf.get(master.commands)!;
      const known = this.#subscriptions.get(master.commands);
      if (known !== undefined) known.listenTo(channels);
      // Nobody waits for it; where the connection cannot even be made, there is no lease.
      else this.#listenTo(master, channels).catch((error: unknown) => this.#onEnded(String(error)));
    }
  }

  #onOpened(): void {
    this.#epochs++;
    if (this.#state !== 'live' && this.#leases.every(({ isOpen }) => isOpen)) this.#become('live', null);
  }

  #onEnded(reason: string): void {
    if (this.#state === 'live' && !this.#leases.every(({ isOpen }) => isOpen))
      this.#become('suspended', reason);
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

  #become(state: SubscriberState, reason: string | null): void {
    this.#state = state;
    this.events.emit('lease', { state, epoch: this.epoch, reason });
  }
}

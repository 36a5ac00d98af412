import { Inject, Injectable } from '@nestjs/common';
import type { HealthIndicatorResult } from '@nestjs/terminus';
import {
  InjectSessionStore,
  RedisSubscriber,
  SessionArgumentError,
  type SessionStore,
  type SubscriberState,
} from '../index.js';

/** The id of no session: what lies in every deployment's partition 0, and is the hash of no token. */
const NOBODYS_ID = 'A'.repeat(23);

/** @publicApi */
export interface SessionHealthOptions {
  /**
   * Milliseconds after which a store that has not answered counts as down; `commandTimeout` is a bound of its own.
   * @default 1000
   */
  timeoutMs?: number;
}

/**
 * What a health check shows; no addresses, ids or reasons.
 *
 * @publicApi
 */
export interface SessionHealth {
  /** `degraded`: the store answers, but the near cache is suspended: every request reads the store. */
  readonly state: 'up' | 'degraded' | 'down';
  /** Milliseconds until the store answered; null when it did not. */
  readonly latencyMs: number | null;
  readonly lease: SubscriberState;
  /** `open`: operations are refused at once, because those before them got no answer; null where the store has none. */
  readonly breaker: 'closed' | 'open' | null;
}

/**
 * Health of the sessions, for `@nestjs/terminus`:
 *
 * ```ts
 * constructor(private readonly health: HealthCheckService, private readonly sessions: SessionHealthIndicator) {}
 *
 * check() {
 *   return this.health.check([() => this.sessions.isHealthy()]);
 * }
 * ```
 *
 * Add it to the `providers` of the module that uses it. A store that does not answer is `down`. What is only slower than
 * it should be, see {@link SessionHealth}, is `up` for Terminus, with `state: 'degraded'`: no process is to be restarted
 * for it.
 *
 * @publicApi
 */
@Injectable()
export class SessionHealthIndicator {
  constructor(
    @InjectSessionStore() private readonly store: SessionStore,
    @Inject(RedisSubscriber) private readonly subscriber: RedisSubscriber,
  ) {}

  /**
   * Asks the store for a session, as a request does, that there is not: so any store is really asked, and one that answers
   * but may not be read, for lack of rights for example, is down. Never rejects for a store that is away.
   *
   * @throws {SessionArgumentError} for options that are none
   */
  async isHealthy<Key extends string = 'sessions'>(
    key: Key = 'sessions' as Key,
    options?: SessionHealthOptions,
  ): Promise<HealthIndicatorResult<Key, 'up' | 'down', SessionHealth>> {
    const health = await this.health(options);
    const status = health.state === 'down' ? 'down' : 'up';
    return { [key]: { ...health, status } } as HealthIndicatorResult<Key, 'up' | 'down', SessionHealth>;
  }

  /** The same without Terminus. */
  async health({ timeoutMs = 1_000 }: SessionHealthOptions = {}): Promise<SessionHealth> {
    if (!Number.isInteger(timeoutMs) || timeoutMs < 1 || timeoutMs > 60_000) {
      throw new SessionArgumentError(
        'options.timeoutMs',
        `must be a whole number of milliseconds from 1 to 60000; got ${String(timeoutMs)}. Write e.g. 1000.`,
      );
    }
    const latencyMs = await this.#latency(timeoutMs);
    const lease = this.subscriber.state;
    const isSuspended = lease === 'suspended' || lease === 'connecting';
    return {
      state: latencyMs === null ? 'down' : isSuspended ? 'degraded' : 'up',
      latencyMs,
      lease,
      breaker: this.store.breaker ?? null,
    };
  }

  async #latency(timeoutMs: number): Promise<number | null> {
    const begun = performance.now();
    let timer: NodeJS.Timeout | undefined;
    const tooLate = new Promise<false>((resolve) => (timer = setTimeout(resolve, timeoutMs, false)));
    const answered = this.#ask().then(
      () => true,
      () => false, // why is told by the store's own events; a health check is often public
    );
    const isThere = await Promise.race([answered, tooLate]);
    clearTimeout(timer);
    return isThere ? Math.round((performance.now() - begun) * 100) / 100 : null;
  }

  /** A store of the app's own may throw at once. */
  async #ask(): Promise<void> {
    await this.store.get(NOBODYS_ID);
  }
}

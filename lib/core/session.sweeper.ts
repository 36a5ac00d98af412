import type { SessionEvents } from '../events/session-events.js';
import type { ExpiredSession, SessionStore } from './session-store.js';

/**
 * Has the store remove what has expired, every `sweepInterval`, and tells of it. One sweep at a time; a store that does
 * not answer is asked again at the next.
 */
export class SessionSweeper {
  #timer: NodeJS.Timeout | undefined;
  #sweeping: Promise<void> | undefined;
  #stopped = true;

  constructor(
    private readonly store: SessionStore,
    private readonly events: SessionEvents,
    private readonly intervalMs: number,
  ) {}

  start(): void {
    this.#stopped = false;
    this.#schedule();
  }

  /** Resolves when no sweep is under way any more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#sweeping;
  }

  async #sweep(): Promise<void> {
    const tell = ({ id, userId, metadata }: ExpiredSession) =>
      this.events.emit('expired', { id, userId, metadata: { ...metadata } });
    try {
      // A little less than the interval: this process finds its own claims gone the next time.
      await this.store.sweep(tell, Math.floor(this.intervalMs * 0.9), () => this.#stopped);
    } catch {
      // The store reports its own state (`storeAvailable`), and nothing is lost: what is due stays due.
    }
  }

  #schedule(): void {
    if (this.#stopped) return;
    // Spread out, so that many processes started together do not all ask at once.
    const delay = this.intervalMs * (0.9 + Math.random() * 0.2);
    this.#timer = setTimeout(() => {
      this.#sweeping = this.#sweep().finally(() => this.#schedule());
    }, delay).unref();
  }
}

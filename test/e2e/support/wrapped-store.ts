import {
  MemorySessionStore,
  SessionStore,
  SessionStoreUnavailableError,
  type NewSession,
  type SessionChange,
  type SessionRecord,
  type SessionStoreCapabilities,
} from '../../../lib/index.js';

type Operation = 'create' | 'get' | 'set' | 'touch' | 'destroy' | 'move' | 'userSessions' | 'destroyMany';

/**
 * A store of the user's own around a real one: counts calls, can be taken down, and says of itself what
 * `capabilities` say. `exclusive` decides whether the near cache works.
 */
export class WrappedStore extends SessionStore {
  override readonly capabilities: SessionStoreCapabilities;
  readonly calls = { open: 0, close: 0, create: 0, get: 0, set: 0, touch: 0, destroy: 0, move: 0 };
  /** While true every operation rejects, as a store does that does not answer. */
  down = false;
  /** Only these reject; for a store that can still be read. */
  failing: readonly Operation[] = [];

  constructor(
    capabilities: Partial<SessionStoreCapabilities> = {},
    readonly inner = new MemorySessionStore(),
  ) {
    super();
    this.capabilities = { versions: true, index: true, aliases: true, ...capabilities };
  }

  override async open(): Promise<void> {
    this.calls.open++;
    await this.inner.open();
  }

  override async close(): Promise<void> {
    this.calls.close++;
    await this.inner.close();
  }

  async create(session: NewSession) {
    this.calls.create++;
    this.#check('create');
    return this.inner.create(session);
  }

  async get(id: string) {
    this.calls.get++;
    this.#check('get');
    return this.inner.get(id);
  }

  async set(change: SessionChange) {
    this.calls.set++;
    this.#check('set');
    return this.inner.set(change);
  }

  async touch(id: string, minInterval: number) {
    this.calls.touch++;
    this.#check('touch');
    return this.inner.touch(id, minInterval);
  }

  async destroy(id: string) {
    this.calls.destroy++;
    this.#check('destroy');
    return this.inner.destroy(id);
  }

  async move(base: SessionRecord, next: NewSession) {
    this.calls.move++;
    this.#check('move');
    return this.inner.move(base, next);
  }

  all() {
    return this.inner.all();
  }

  length() {
    return this.inner.length();
  }

  clear() {
    return this.inner.clear();
  }

  override async userSessions(userId: string) {
    this.#check('userSessions');
    return this.inner.userSessions(userId);
  }

  override async destroyMany(ids: readonly string[]) {
    this.#check('destroyMany');
    return this.inner.destroyMany(ids);
  }

  #check(operation: Operation): void {
    if (this.down || this.failing.includes(operation))
      throw new SessionStoreUnavailableError(operation, 'it is down for this test', false);
  }
}

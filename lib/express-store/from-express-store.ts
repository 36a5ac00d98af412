import {
  RecordSessionStore,
  SessionArgumentError,
  type RecordSessionStoreOptions,
  type SessionRecord,
  type SessionStore,
} from '../index.js';
import { checkOptions } from './check-options.js';
import { ForeignStore, type ExpressFields, type ExpressStore } from './foreign-store.js';

/** @publicApi */
export interface FromExpressStoreOptions extends RecordSessionStoreOptions {}

/** The field of the foreign store's session under which the record lies. */
const FIELD = 'sessionkit';

/**
 * What "never" is to a store that gives everything an end: 2100, which also fits those that count seconds in 32 bits.
 * Without `cookie.expires` most take a day.
 */
const NEVER = Date.UTC(2100, 0, 1);

/**
 * Any store of express-session as the app's store: `SessionModule.forRoot({ store: fromExpressStore(new RedisStore(…)) })`.
 *
 * A record lies under its public id, in the field `sessionkit`, beside a true `cookie`, whose `expires` tells the store
 * how long to keep it. Sessions of others in the same store are left alone, and count as absent.
 *
 * Such a store announces nothing, so the near cache stays off, and of two processes that write one session the last one
 * wins: options that need `capabilities` stop the boot. Where the store has no `all()` (connect-pg-simple,
 * session-file-store), what lists, counts or ends all sessions fails with a `SessionArgumentError` that names it; the rest
 * works. Between its events `disconnect` and `connect` every operation fails at once.
 *
 * @param options.timeoutMs for one call of the store, in milliseconds; default 5000
 * @throws {SessionArgumentError} if `store` is none, or an option is not known
 * @publicApi
 */
export function fromExpressStore(store: ExpressStore, options: FromExpressStoreOptions = {}): SessionStore {
  checkOptions(options, ['timeoutMs', 'clock']);
  return new ExpressRecordStore(new ForeignStore('store', store), options);
}

class ExpressRecordStore extends RecordSessionStore {
  constructor(
    private readonly foreign: ForeignStore,
    options: RecordSessionStoreOptions,
  ) {
    super(options);
  }

  override async close(): Promise<void> {
    this.foreign.release();
  }

  protected async readRecord(id: string): Promise<SessionRecord | null> {
    const record = recordIn(await this.foreign.get(id));
    return record?.id === id ? record : null;
  }

  protected async writeRecord(record: SessionRecord, deadline: number): Promise<void> {
    const now = Date.now();
    const expires = new Date(Math.min(deadline, NEVER));
    const originalMaxAge = expires.getTime() - now;
    // To some stores an age of 0 means "for ever".
    if (originalMaxAge <= 0) return this.foreign.destroy(record.id);
    const cookie = { originalMaxAge, expires, httpOnly: true, path: '/' };
    // As with a Cookie of express-session, which stores read it from, and which does not store it.
    Object.defineProperty(cookie, 'maxAge', { value: originalMaxAge });
    await this.foreign.set(record.id, { cookie, [FIELD]: { ...record } });
  }

  protected removeRecord(id: string): Promise<void> {
    return this.foreign.destroy(id);
  }

  protected async *records(): AsyncGenerator<SessionRecord> {
    if (!this.foreign.has('all'))
      throw new SessionArgumentError(
        'store',
        `(${this.foreign.name}) has no method all(), so its sessions cannot be listed, counted or ended all at once. ` +
          'Use a store that has one.',
      );
    for (const session of await this.foreign.all()) {
      const record = recordIn(session);
      if (record !== null) yield record;
    }
  }
}

const NUMBERS = ['version', 'createdAt', 'lastAccess', 'idleTimeout', 'absoluteDeadline'] as const;

/** The record in what a store has given; null if that is not one of ours. */
function recordIn(session: ExpressFields | null): SessionRecord | null {
  const value = session?.[FIELD];
  if (typeof value !== 'object' || value === null) return null;
  const { id, userId, data, metadata, ...rest } = value as Partial<Record<keyof SessionRecord, unknown>>;
  if (typeof id !== 'string' || typeof data !== 'string') return null;
  if (typeof userId !== 'string' && userId !== null) return null;
  if (typeof metadata !== 'object' || metadata === null) return null;
  if (!NUMBERS.every((name) => Number.isSafeInteger(rest[name]) && (rest[name] as number) >= 0)) return null;
  return value as SessionRecord;
}

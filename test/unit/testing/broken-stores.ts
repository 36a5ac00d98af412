// Stores that are each wrong in one way, as stores are in the wild. What the suite must find.
import { setImmediate as tick } from 'node:timers/promises';
import {
  MemorySessionStore,
  type CreateResult,
  type LoadedSession,
  type MoveResult,
  type NewSession,
  type SessionChange,
  type SessionRecord,
  type TouchResult,
  type WriteResult,
} from '../../../lib/index.js';
import { deadlineOf } from '../../../lib/core/session-record.interface.js';
import { MapRecordStore } from '../core/map-record-store.js';

/** The session that a record was made from, to make it once more. */
const remade = (record: SessionRecord, data = record.data): NewSession => ({
  id: record.id,
  userId: record.userId,
  idleTimeout: record.idleTimeout,
  absoluteTimeout: record.absoluteDeadline === 0 ? 0 : record.absoluteDeadline - record.createdAt,
  metadata: record.metadata,
  data,
});

/** get() looks at no deadline. */
export class ServesExpired extends MapRecordStore {
  override async get(id: string): Promise<LoadedSession | null> {
    const record = await this.readRecord(id);
    return record && { record, now: await this.now() };
  }
}

/** set() of a session that has been destroyed makes it anew, as `UPSERT` does. */
export class Resurrects extends MemorySessionStore {
  override async set(change: SessionChange): Promise<WriteResult> {
    const result = await super.set(change);
    if (result.status !== 'gone' || deadlineOf(change.base) <= (await this.now())) return result;
    const created = await super.create(remade(change.base, change.data));
    return created.status === 'created' ? { ...created, status: 'written' } : result;
  }
}

/** set() writes on top of whatever is there: the last writer wins. */
export class IgnoresVersions extends MemorySessionStore {
  override async set(change: SessionChange): Promise<WriteResult> {
    let result = await super.set(change);
    while (result.status === 'conflict') result = await super.set({ ...change, base: result.record });
    return result;
  }
}

/** create() replaces the session that has the id. */
export class OverwritesTaken extends MemorySessionStore {
  override async create(session: NewSession): Promise<CreateResult> {
    const result = await super.create(session);
    if (result.status !== 'taken') return result;
    await super.destroy(session.id);
    return super.create(session);
  }
}

/** create() looks first and writes later, and somebody else did so meanwhile. */
export class CreatesTwice extends MemorySessionStore {
  override async create(session: NewSession): Promise<CreateResult> {
    if ((await this.get(session.id)) !== null) return { status: 'taken' };
    await tick();
    await super.destroy(session.id);
    return super.create(session);
  }
}

/** touch() counts the absolute deadline from now. */
export class TouchMovesDeadline extends MapRecordStore {
  override async touch(id: string, minInterval: number): Promise<TouchResult | null> {
    const touched = await super.touch(id, minInterval);
    const text = this.texts.get(id);
    if (touched === null || text === undefined || touched.lastAccess !== touched.now) return touched;
    const record = JSON.parse(text) as SessionRecord;
    const { absoluteTimeout } = remade(record);
    const absoluteDeadline = absoluteTimeout === 0 ? 0 : touched.now + absoluteTimeout;
    this.texts.set(id, JSON.stringify({ ...record, absoluteDeadline }));
    return touched;
  }
}

/** destroy() does not know whether there was one. */
export class DestroyIsAlwaysTrue extends MemorySessionStore {
  override async destroy(id: string): Promise<boolean> {
    await super.destroy(id);
    return true;
  }
}

/** destroy() says so, and ends nothing. */
export class DestroyEndsNothing extends MemorySessionStore {
  override async destroy(id: string): Promise<boolean> {
    const loaded = await super.get(id);
    return loaded?.record.id === id;
  }
}

/** all() shows the first session once more at the end, as a cursor over what moves does. */
export class AllRepeats extends MemorySessionStore {
  override async *all(): AsyncGenerator<SessionRecord> {
    let first: SessionRecord | undefined;
    for await (const record of super.all()) {
      first ??= record;
      yield record;
    }
    if (first !== undefined) yield first;
  }
}

/** all() shows its first page only. */
export class AllOmits extends MemorySessionStore {
  override async *all(): AsyncGenerator<SessionRecord> {
    let shown = 0;
    for await (const record of super.all()) if (shown++ < 100) yield record;
  }
}

/** userSessions() shows those of users whose ids only begin alike, as `LIKE 'ann%'` does. */
export class ShowsOtherUsers extends MemorySessionStore {
  override async userSessions(userId: string): Promise<{ records: SessionRecord[]; now: number }> {
    const { entries, now } = await this.list({ limit: Infinity });
    return { records: entries.filter((record) => record.userId?.startsWith(userId)), now };
  }
}

/** Metadata come back in another encoding. */
export class ManglesMetadata extends MapRecordStore {
  protected override async writeRecord(record: SessionRecord, deadline: number): Promise<void> {
    const { label, ...metadata } = record.metadata;
    const mangled = label === undefined ? undefined : Buffer.from(label, 'latin1').toString('latin1');
    await super.writeRecord(
      { ...record, metadata: mangled === undefined ? metadata : { ...metadata, label: mangled } },
      deadline,
    );
  }
}

/** move() copies: the old session goes on. */
export class MoveLeavesOld extends MemorySessionStore {
  override async move(base: SessionRecord, next: NewSession): Promise<MoveResult> {
    const result = await super.move(base, next);
    if (result.status === 'moved' && next.alias === undefined) await super.create(remade(base));
    return result;
  }
}

/** The end of a session between the check of set() and its write goes unnoticed. */
export class SavesLate extends MemorySessionStore {
  override async set(change: SessionChange): Promise<WriteResult> {
    const checked = await super.get(change.base.id);
    await tick();
    const result = await super.set(change);
    if (result.status !== 'gone' || checked?.record.id !== change.base.id) return result;
    const created = await super.create(remade(change.base, change.data));
    return created.status === 'created' ? { ...created, status: 'written' } : result;
  }
}

/** clear() takes everything at once. */
export class ClearsAtOnce extends MemorySessionStore {
  override async clear(
    onEnded?: (sessions: readonly { readonly id: string; readonly userId: string | null }[]) => void,
  ): Promise<void> {
    const ended: { readonly id: string; readonly userId: string | null }[] = [];
    await super.clear((sessions) => ended.push(...sessions));
    onEnded?.(ended);
  }
}

/** create() overlooks how many a user may have. */
export class IgnoresLimits extends MemorySessionStore {
  override create(session: NewSession): Promise<CreateResult> {
    const { limit: _, ...unlimited } = session;
    return super.create(unlimited);
  }
}

import { unboxed } from '../core/clock.js';
import type { CopyEpoch } from '../core/session-cache.interface.js';
import type { SessionMetadata, SessionRecord } from '../core/session-record.interface.js';
import type { StoredFile } from './file-cache.js';

/** Monotonic milliseconds. */
export interface CopyTimes {
  /** Until when the copy may be served. */
  readonly deadline: number;
  /** When the session ends by its own deadlines, as far as they are known here. */
  readonly endsAt: number;
  /** Before the store was asked for the data. */
  readonly readAt: number;
}

/**
 * A record in the near cache, and until when it may be served: one object, because two take 32 bytes more and a hit would
 * look into both. What the cache keeps beside the record is private, so that `{ ...record }` is a record and no more.
 */
export class Copy implements SessionRecord {
  readonly id: string;
  readonly userId: string | null;
  readonly version: number;
  readonly createdAt: number;
  readonly lastAccess: number;
  readonly idleTimeout: number;
  readonly absoluteDeadline: number;
  readonly metadata: SessionMetadata;
  readonly data: string;
  readonly #epoch: CopyEpoch;
  readonly #deadline: number;
  readonly #endsAt: number;
  readonly #readAt: number;
  #usedAt: number;

  /** @param usedAt how many copies had been stored when it was last moved to the end of the list that the least recently used leave */
  constructor(record: SessionRecord, epoch: CopyEpoch, times: CopyTimes, usedAt: number) {
    this.id = record.id;
    this.userId = record.userId;
    this.version = record.version;
    this.createdAt = record.createdAt;
    this.lastAccess = record.lastAccess;
    this.idleTimeout = record.idleTimeout;
    this.absoluteDeadline = record.absoluteDeadline;
    this.metadata = record.metadata;
    this.data = record.data;
    this.#epoch = epoch;
    this.#deadline = unboxed(times.deadline);
    this.#endsAt = unboxed(times.endsAt);
    this.#readAt = unboxed(times.readAt);
    this.#usedAt = usedAt;
  }

  get epoch(): CopyEpoch {
    return this.#epoch;
  }

  get readAt(): number {
    return this.#readAt;
  }

  get usedAt(): number {
    return this.#usedAt;
  }

  set usedAt(writes: number) {
    this.#usedAt = writes;
  }

  /** Where metadata and data lie instead of here. */
  get file(): CopyFile | null {
    return null;
  }

  /** Of its data. */
  get bytes(): number {
    return Buffer.byteLength(this.data);
  }

  servesAt(now: number): boolean {
    return now < this.#deadline && now < this.#epoch.liveUntil;
  }

  /** As long as the session lives, and for that much longer than the copy could be served by what was proved. */
  servesStaleAt(now: number, staleForMs: number): boolean {
    if (staleForMs === 0 || now >= this.#endsAt) return false;
    return now < Math.min(this.#deadline, this.#epoch.provenUntil) + staleForMs;
  }

  /** Will not be served again, unless as a stale one. */
  isOverAt(now: number): boolean {
    return this.#epoch.ended || now >= this.#deadline;
  }

  /** The same for longer. A copy of its own: this one may have been handed out, and records never change. */
  renewed(lastAccess: number, times: CopyTimes): Copy {
    return new Copy(changed(this, { lastAccess }), this.#epoch, times, this.#usedAt);
  }

  /** What stays of it in memory when its metadata and data lie in a file. */
  filed(file: CopyFile): Copy {
    const times = { deadline: this.#deadline, endsAt: this.#endsAt, readAt: this.#readAt };
    return new FiledCopy(
      changed(this, { metadata: NOTHING, data: '' }),
      this.#epoch,
      times,
      this.#usedAt,
      file,
    );
  }
}

/** Where the metadata and data of a copy lie. */
export type CopyFile = StoredFile & { readonly digest: string };

class FiledCopy extends Copy {
  readonly #file: CopyFile;

  constructor(record: SessionRecord, epoch: CopyEpoch, times: CopyTimes, usedAt: number, file: CopyFile) {
    super(record, epoch, times, usedAt);
    this.#file = file;
  }

  override get file(): CopyFile {
    return this.#file;
  }

  override get bytes(): number {
    return this.#file.bytes;
  }

  override renewed(lastAccess: number, times: CopyTimes): Copy {
    return new FiledCopy(changed(this, { lastAccess }), this.epoch, times, this.usedAt, this.#file);
  }
}

const NOTHING = Object.freeze({});

/** A record of its own, without what the cache keeps beside it. */
export function changed(record: SessionRecord, parts: Partial<SessionRecord>): SessionRecord {
  return { ...record, ...parts };
}

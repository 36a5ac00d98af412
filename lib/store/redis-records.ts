import { deadlineOf, type SessionRecord } from '../core/session-record.interface.js';
import type { Conflict, Gone, LoadedSession } from '../core/session-store.js';
import type { SessionEvents } from '../events/session-events.js';
import { milliseconds, type RedisLinks } from './redis-links.js';
import type { RedisKeys } from './redis-keys.js';
import { aliasOf, isMoved, parseRecord, unmarked } from './redis-record.js';
import type { ServerTime } from './server-time.js';

/** Most records one command touches, so that none holds Redis up for long. */
export const READ_BATCH = 200;

/** Whether a session has ended does not show by an estimate of the server's clock. */
const UNCLEAR = Symbol('ask the server for its time');

/** What stands under an id whose token was rotated. */
export interface Alias {
  readonly successor: string;
  /** Epoch milliseconds until which reads follow it. */
  readonly readableUntil: number;
  readonly now: number;
}

/** Reads records: one with `GET`, many with `MGET`; the server's clock tells which have expired ({@link ServerTime}). */
export class RedisRecords {
  constructor(
    private readonly connection: RedisLinks,
    private readonly keys: RedisKeys,
    private readonly events: SessionEvents,
  ) {}

  /** The live session under this very id, or what leads to the one that took its place. */
  async read(id: string): Promise<LoadedSession | Alias | null> {
    const found = await this.#read(id, false);
    // What the estimate does not show to be alive, the server's own clock decides on.
    return found === UNCLEAR ? ((await this.#read(id, true)) as Exclude<typeof found, symbol>) : found;
  }

  async #read(id: string, exactly: boolean): Promise<LoadedSession | Alias | null | typeof UNCLEAR> {
    const partition = this.keys.partitionOf(id);
    const key = this.keys.record(partition, id);
    let estimate: ServerTime | undefined;
    // No script: one that does no more than these two costs the server four times as much.
    const answer = await this.connection.read<string | null | [now: number, text: string | null]>(
      partition,
      'get a session',
      (client, _forgotten, { time }) => {
        estimate = exactly || time.latest() === undefined ? undefined : time;
        return estimate === undefined ? Promise.all([time.ask(), client.get(key)]) : client.get(key);
      },
    );
    const text = Array.isArray(answer) ? answer[1] : answer;
    if (text === null || isMoved(text)) return null;
    // After the answer, for which the server may have taken its time: it looked at the record before this.
    const now = Array.isArray(answer) ? answer[0] : estimate!.latest();
    if (now === undefined) return UNCLEAR;
    const alias = aliasOf(text);
    if (alias !== null) {
      if (estimate !== undefined && now >= alias.readableUntil) return UNCLEAR;
      return { successor: alias.id, readableUntil: alias.readableUntil, now };
    }
    const loaded = this.loaded(id, text, now);
    if (loaded === null) return null;
    if (deadlineOf(loaded.record) <= now) return estimate === undefined ? null : UNCLEAR;
    return estimate === undefined ? loaded : { record: loaded.record, now, isEstimate: true };
  }

  async readMany(
    partition: number,
    ids: readonly string[],
  ): Promise<{ records: SessionRecord[]; moving: SessionRecord[]; now: number }> {
    const records: SessionRecord[] = [];
    const moving: SessionRecord[] = [];
    let now = 0;
    for (let start = 0; start < ids.length || now === 0; start += READ_BATCH) {
      const batch = ids.slice(start, start + READ_BATCH);
      const [time, texts] = await this.connection.read(partition, 'list sessions', (client) =>
        Promise.all([
          client.time(),
          batch.length === 0 ? [] : client.mget(batch.map((id) => this.keys.record(partition, id))),
        ]),
      );
      now = milliseconds(time);
      for (const [index, text] of texts.entries()) {
        if (text === null || aliasOf(text) !== null) continue;
        const isMoving = isMoved(text);
        const record = this.loaded(batch[index]!, isMoving ? unmarked(text) : text, now)?.record;
        if (record !== undefined && deadlineOf(record) > now) (isMoving ? moving : records).push(record);
      }
    }
    return { records, moving, now };
  }

  /** Records by id of those that are live. */
  async readPlaces(
    places: readonly (readonly [partition: number, id: string])[],
  ): Promise<ReadonlyMap<string, SessionRecord>> {
    const groups = new Map<number, string[]>();
    for (const [partition, id] of places) {
      const ids = groups.get(partition) ?? [];
      groups.set(partition, ids);
      ids.push(id);
    }
    const found = await Promise.all(
      [...groups].map(async ([partition, ids]) => (await this.readMany(partition, ids)).records),
    );
    return new Map(found.flat().map((record) => [record.id, record]));
  }

  /** What a text holds; null, and an event, where it is no record. */
  loaded(id: string, text: string, now: number): LoadedSession | null {
    const record = parseRecord(id, text);
    if (record !== null) return { record, now };
    this.events.emit('undecodable', { id, reason: 'the stored text is not a record of this layout' });
    return null;
  }

  /** What a script's refusal to write means: the session has gone, or this is what it became. */
  refused(id: string, reply: [0, string, number] | [-1], uncertain: boolean): Gone | Conflict {
    if (reply[0] === -1) return { status: 'gone' };
    const current = this.loaded(id, reply[1], reply[2]);
    return current === null ? { status: 'gone' } : { status: 'conflict', uncertain, ...current };
  }
}

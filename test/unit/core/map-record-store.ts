import {
  RecordSessionStore,
  type RecordSessionStoreOptions,
  type SessionRecord,
} from '../../../lib/index.js';

/** What one operation of the map does before it is done, e.g. wait or fail. */
export type Obstacle = (operation: 'read' | 'write' | 'remove' | 'next', id: string) => Promise<void> | void;

/** Records as text in a Map: the least that can be built on RecordSessionStore, asynchronous as a real one is. */
export class MapRecordStore extends RecordSessionStore {
  /** What goes on, in order. */
  readonly journal: string[] = [];
  obstacle: Obstacle = () => undefined;

  constructor(
    options: RecordSessionStoreOptions = {},
    readonly texts = new Map<string, string>(),
  ) {
    super(options);
  }

  protected async readRecord(id: string): Promise<SessionRecord | null> {
    await this.#pass('read', id);
    return this.#parse(id);
  }

  protected async writeRecord(record: SessionRecord, deadline: number): Promise<void> {
    this.journal.push(`deadline ${deadline}`);
    await this.#pass('write', record.id);
    this.texts.set(record.id, JSON.stringify(record));
  }

  protected async removeRecord(id: string): Promise<void> {
    await this.#pass('remove', id);
    this.texts.delete(id);
  }

  protected async *records(): AsyncGenerator<SessionRecord> {
    try {
      for (const id of Array.from(this.texts.keys())) {
        await this.#pass('next', id);
        const record = this.#parse(id);
        if (record !== null) yield record;
      }
    } finally {
      this.journal.push('iterator closed');
    }
  }

  #parse(id: string): SessionRecord | null {
    const text = this.texts.get(id);
    return text === undefined ? null : (JSON.parse(text) as SessionRecord);
  }

  async #pass(operation: Parameters<Obstacle>[0], id: string): Promise<void> {
    this.journal.push(`${operation} ${id}`);
    await new Promise((resolve) => setImmediate(resolve));
    await this.obstacle(operation, id);
    this.journal.push(`${operation} done`);
  }
}

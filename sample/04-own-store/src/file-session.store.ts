import { mkdir, opendir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  RecordSessionStore,
  type ExpiredSession,
  type RecordSessionStoreOptions,
  type SessionRecord,
} from 'nestjs-sessionkit';

/**
 * A store of your own, to copy from: one JSON file per session. Sessions survive a restart; a file that was being written
 * when the machine lost its power may be lost. For one process: of two, the last writer of a session wins.
 */
export class FileSessionStore extends RecordSessionStore {
  #written = 0;

  /** @param directory for nothing else; made if it is not there */
  constructor(
    private readonly directory: string,
    options?: RecordSessionStoreOptions,
  ) {
    super(options);
  }

  override async open(): Promise<void> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
  }

  protected async readRecord(id: string): Promise<SessionRecord | null> {
    try {
      return JSON.parse(await readFile(this.#path(id), 'utf8')) as SessionRecord;
    } catch (error) {
      // Absent is an answer, and so is a file that is none of ours; all else means that the store cannot tell.
      if (error instanceof SyntaxError || isAbsent(error)) return null;
      throw error;
    }
  }

  /** Under another name first: whoever reads meanwhile finds the old record or the new one, never half of one. */
  protected async writeRecord(record: SessionRecord): Promise<void> {
    const temporary = join(this.directory, `${record.id}.${process.pid}-${this.#written++}.tmp`);
    await writeFile(temporary, JSON.stringify(record), { mode: 0o600 });
    await rename(temporary, this.#path(record.id));
  }

  protected async removeRecord(id: string): Promise<void> {
    await rm(this.#path(id), { force: true });
  }

  protected async *records(): AsyncGenerator<SessionRecord> {
    for await (const { name } of await opendir(this.directory)) {
      const record = name.endsWith('.json') ? await this.readRecord(name.slice(0, -5)) : null;
      if (record !== null) yield record;
    }
  }

  /** Called every `sweepInterval`. Files do not go by themselves. */
  override sweep(
    onExpired: (session: ExpiredSession) => void,
    _claimMs: number,
    isStopped: () => boolean,
  ): Promise<void> {
    return this.removeExpired(onExpired, isStopped);
  }

  /** An id is 23 characters of `A-Za-z0-9_-`, whatever a client sends: it leads nowhere else. */
  #path(id: string): string {
    return join(this.directory, `${id}.json`);
  }
}

function isAbsent(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

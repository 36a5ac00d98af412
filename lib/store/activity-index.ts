/** How long what was noted waits before it is written. */
const FLUSH_MS = 1_000;
/** Entries of one write, over all partitions. */
const BATCH = 3_200;
/** Notes kept while Redis does not answer; beyond it the oldest are given up: they are notes of use, not sessions. */
const MAX_NOTES = 50_000;

/** A session and when it was last used. */
interface Note {
  readonly user: string;
  readonly at: number;
}

/**
 * When sessions and users were last active, for lists by activity. Collected here and written once a second, because
 * two more sorted sets in every script would cost a third of their speed (DESIGN section 4).
 */
export class ActivityIndex {
  #notes = new Map<string, Note>();
  #timer: NodeJS.Timeout | undefined;
  #flushing: Promise<void> | undefined;
  #closed = false;

  /** @param write enters up to some hundred notes, in any order; may reject; null where there is no such index */
  constructor(
    private readonly write: ((notes: readonly (readonly [id: string, note: Note])[]) => Promise<void>) | null,
  ) {}

  /** @param user encoded, empty for nobody's */
  note(id: string, user: string, at: number): void {
    if (this.write === null) return;
    const known = this.#notes.get(id);
    if (known !== undefined && known.at >= at) return;
    this.#notes.delete(id); // to the end: the oldest are given up first
    this.#notes.set(id, { user, at });
    if (this.#notes.size > MAX_NOTES) this.forget(this.#notes.keys().next().value!);
    if (!this.#closed) this.#timer ??= setTimeout(() => void this.flush(), FLUSH_MS).unref();
  }

  /** The session has ended: nothing is to be written of it. */
  forget(id: string): void {
    this.#notes.delete(id);
  }

  /** Writes what has been noted up to now; what cannot be written stays noted. Never rejects. */
  async flush(): Promise<void> {
    // One that is under way may have begun before the last note.
    await this.#flushing;
    await (this.#flushing ??= this.#flush().finally(() => (this.#flushing = undefined)));
  }

  /** Writes what is left, once. What is noted after that is not written by itself. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.flush();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async #flush(): Promise<void> {
    if (this.write === null) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const notes = [...this.#notes];
    this.#notes.clear();
    for (let start = 0; start < notes.length; start += BATCH) {
      const batch = notes.slice(start, start + BATCH);
      try {
        await this.write(batch);
      } catch {
        this.#keep(notes.slice(start));
        return;
      }
    }
  }

  #keep(notes: readonly (readonly [string, Note])[]): void {
    for (const [id, { user, at }] of notes) this.note(id, user, at);
  }
}

/**
 * Runs tasks of one key one after another, in order of arrival; tasks of different keys do not wait for each other.
 * A task whose turn does not come in time is refused and never run: whoever waits gets an answer, also when a task
 * ahead hangs, or waits for this very one.
 */
export class KeyedQueue {
  readonly #tails = new Map<unknown, Promise<unknown>>();

  /**
   * @param waitMs longest time a task waits for its turn
   * @param tooLate makes the error for a task that waited longer
   */
  constructor(
    private readonly waitMs: number,
    private readonly tooLate: () => Error,
  ) {}

  /** @param key a string, or an object (its identity counts) */
  run<T>(key: unknown, task: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key);
    if (before === undefined) return this.#first(key, task);
    return new Promise<T>((resolve, reject) => {
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        reject(this.tooLate());
      }, this.waitMs);
      const start = async (): Promise<void> => {
        clearTimeout(timer);
        if (!late) await task().then(resolve, reject);
      };
      void this.#queue(key, before.then(start, start));
    });
  }

  /** Resolves when everything queued so far has ended, well or badly. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.#tails.values());
  }

  /** Starts at once, but takes its place first: what the task itself asks for must queue behind it. */
  #first<T>(key: unknown, task: () => Promise<T>): Promise<T> {
    let end = () => {};
    const place = new Promise<void>((resolve) => (end = resolve));
    void this.#queue(key, place);
    const running = task();
    running.then(end, end);
    return running;
  }

  /** The place in the queue is kept until the task has ended, even if its caller has been refused. */
  #queue<T>(key: unknown, place: Promise<T>): Promise<T> {
    this.#tails.set(key, place);
    const settle = () => {
      if (this.#tails.get(key) === place) this.#tails.delete(key);
    };
    place.then(settle, settle);
    return place;
  }
}

/**
 * Runs tasks of one key one after another, in order of arrival; tasks of different keys do not wait for each other.
 * A task whose turn does not come in time is refused and never run: whoever waits gets an answer, also when a task
 * ahead hangs, or waits for this very one.
 */
export class KeyedQueue {
  readonly #tails = new Map<unknown, Place>();

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
    const place = new Place();
    this.#tails.set(key, place); // first, so that what the task itself asks for queues behind it
    const settle = () => {
      if (this.#tails.get(key) === place) this.#tails.delete(key);
      place.leave();
    };
    if (before === undefined) return this.#start(task, settle);
    return new Promise<T>((resolve, reject) => {
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        reject(this.tooLate());
      }, this.waitMs);
      const start = async (): Promise<void> => {
        clearTimeout(timer);
        if (!late) await started(task).then(resolve, reject);
      };
      void before.left().then(start).then(settle, settle);
    });
  }

  /** Resolves when everything queued so far has ended, well or badly. */
  async idle(): Promise<void> {
    await Promise.all([...this.#tails.values()].map((place) => place.left()));
  }

  #start<T>(task: () => Promise<T>, settle: () => void): Promise<T> {
    const running = started(task);
    running.then(settle, settle);
    return running;
  }
}

/** A task of an app's own may throw before it has made a promise. */
function started<T>(task: () => Promise<T>): Promise<T> {
  try {
    return task();
  } catch (error) {
    return Promise.reject(error as Error);
  }
}

/** A place in the queue, kept until its task has ended, even if its caller has been refused. */
class Place {
  #left = false;
  #promise: Promise<void> | undefined;
  #resolve: (() => void) | undefined;

  /** Nearly always nobody waits: the promise is made for whoever does. */
  left(): Promise<void> {
    if (this.#left) return Promise.resolve();
    return (this.#promise ??= new Promise((resolve) => (this.#resolve = resolve)));
  }

  leave(): void {
    this.#left = true;
    this.#resolve?.();
  }
}

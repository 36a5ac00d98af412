/** Runs tasks of one key one after another, in order of arrival; tasks of different keys do not wait for each other. */
export class KeyedQueue {
  readonly #tails = new Map<string, Promise<unknown>>();

  run<T>(key: string, task: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key);
    const result = before === undefined ? task() : before.then(task, task);
    this.#tails.set(key, result);
    const settle = () => {
      if (this.#tails.get(key) === result) this.#tails.delete(key);
    };
    result.then(settle, settle);
    return result;
  }

  /** Resolves when everything queued so far has ended, well or badly. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.#tails.values());
  }
}

/**
 * A promise that knows whether anybody waits for it, so that an error nobody takes can become the response. It never
 * raises `unhandledRejection` by itself.
 */
export class TrackedPromise<T> extends Promise<T> {
  taken = false;

  /** What `then` makes are plain promises. */
  static override get [Symbol.species](): PromiseConstructor {
    return Promise;
  }

  static of<T>(running: Promise<T>): TrackedPromise<T> {
    return new TrackedPromise<T>((resolve, reject) => {
      running.then(resolve, reject);
    }).quiet();
  }

  /** To be called once, by whoever makes one. */
  quiet(): this {
    void super.then(undefined, () => undefined);
    return this;
  }

  // oxlint-disable-next-line unicorn/no-thenable -- it is a promise, and has to know of its being waited for
  override then<A = T, B = never>(
    onFulfilled?: ((value: T) => A | PromiseLike<A>) | null,
    onRejected?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.taken = true;
    return super.then(onFulfilled, onRejected);
  }
}

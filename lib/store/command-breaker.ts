import { circuitBreaker, ConsecutiveBreaker, ExponentialBackoff, handleAll, type IBackoff } from 'cockatiel';

/** Commands in a row that got no answer, after which nobody is to wait for one: a single one may just have been slow. */
const UNANSWERED = 3;

/** How soon after that, and then how often at most, the server is asked whether it answers; with jitter. Milliseconds. */
const PROBE = { initialDelay: 50, maxDelay: 500 };

const firstPause = () => new ExponentialBackoff(PROBE).next();
const answered = () => undefined;
const unanswered = () => Promise.reject(new Error('no answer'));

/**
 * Knows whether it is worth while to send a command and wait for its answer. A server that is dead, or frozen, then costs
 * a request microseconds instead of `commandTimeout`.
 *
 * Open after some commands in a row that got no answer at all; an error reply is an answer. While it is open, a question
 * of its own finds out when the server answers again, so that no request has to try. An answer that took longer than a
 * command may is none of any use: a server that is merely slow would close it, and let the next commands wait in vain,
 * again and again. The commands themselves do not go through the library, whose wrapper costs each several promises: it is
 * told what became of them, and of those that were answered only after one that was not.
 */
export class CommandBreaker {
  readonly #policy = circuitBreaker(handleAll, {
    breaker: new ConsecutiveBreaker(UNANSWERED),
    // At any time: when to ask is decided here. The library goes by the wall clock, which may be set back.
    halfOpenAfter: -Infinity,
  });
  readonly #ask: () => Promise<void>;
  readonly #answerMs: number;
  /** The policy's state, where it costs a command nothing to look at it. */
  #open = false;
  #doubtful = false;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  /**
   * @param ask resolves when the server has answered anything; rejects when it cannot be asked
   * @param answerMs how long a command may take, and so the question
   * @param onChange told `true` when it opens, `false` when it closes
   */
  constructor(ask: () => Promise<void>, answerMs: number, onChange: (isOpen: boolean) => void) {
    this.#ask = ask;
    this.#answerMs = answerMs;
    this.#policy.onBreak(() => {
      this.#open = true;
      this.#doubtful = true; // an answer may have come in the moment in which it opened
      onChange(true);
      this.#probe(firstPause());
    });
    this.#policy.onReset(() => {
      this.#open = false;
      clearTimeout(this.#timer);
      onChange(false);
    });
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /** Whether {@link onAnswer} need be called: there has been a command without an answer since. */
  get isDoubtful(): boolean {
    return this.#doubtful;
  }

  /** A command got no answer, or no link to be sent on, in all of its time. */
  onSilence(): void {
    if (this.#open || this.#stopped) return;
    this.#doubtful = true;
    this.#policy.execute(unanswered).catch(() => undefined);
  }

  /** The server has answered something. */
  onAnswer(): void {
    if (!this.#doubtful) return;
    this.#doubtful = false;
    this.#policy.execute(answered).catch(() => undefined);
  }

  /** Stops asking. */
  close(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #probe(backoff: IBackoff<unknown>): void {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const askedAt = performance.now();
      this.#ask().then(
        () => {
          if (performance.now() - askedAt <= this.#answerMs) this.onAnswer();
          else if (this.#open) this.#probe(firstPause()); // the next one tells whether it is slow, or was away
        },
        () => {
          if (this.#open) this.#probe(backoff.next(undefined));
        },
      );
    }, backoff.duration).unref();
  }
}

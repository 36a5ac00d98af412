// Runs a module in a Node process of its own and calls its methods; the module does `serve()` of `worker-rpc.mjs`.
import { fork, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { dieWithParent } from './orphan-guard.js';
import { waitFor } from './wait-for.js';

/** How to start a worker; times are milliseconds. */
export interface NodeWorkerOptions {
  /** Added to this process's environment; `undefined` removes a variable. */
  env?: Record<string, string | undefined>;
  /** Node options, e.g. `['--expose-gc']`; none by default (this process's own are not inherited). */
  execArgv?: string[];
  /** Time until the module must have called `serve()`, 20000 by default. */
  startTimeoutMs?: number;
  /** Time a call may take, 30000 by default. */
  callTimeoutMs?: number;
}

/** A message the worker sent with `emit(event, fields)`. */
export interface WorkerEvent {
  event: string;
  [field: string]: unknown;
}

/** How the process ended: one of the two is set. */
export interface WorkerExit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

interface PlainError {
  name: string;
  message: string;
  code?: string | number;
  stack?: string;
  cause?: PlainError;
}

type Message =
  | { ready: true }
  | { emitted: WorkerEvent }
  | { id: number; value: unknown }
  | { id: number; error: PlainError };

interface Pending {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

/** One worker process. End it with `stop()` or `kill()`; it also dies with this process. */
export class NodeWorker {
  /** What the worker has emitted so far, oldest first. */
  readonly events: WorkerEvent[] = [];
  /** Settles when the process is gone and its output complete; never rejects. */
  readonly exited: Promise<WorkerExit>;
  #output = '';
  #exit: WorkerExit | null = null;
  #ready = false;
  #expected = false;
  #nextId = 1;
  readonly #child: ChildProcess;
  readonly #pending = new Map<number, Pending>();
  readonly #callTimeoutMs: number;
  readonly #file: string;

  private constructor(module: URL, options: NodeWorkerOptions) {
    this.#file = fileURLToPath(module);
    this.#callTimeoutMs = options.callTimeoutMs ?? 30_000;
    // Unhandled rejections end the process with code 1, whatever NODE_OPTIONS says.
    this.#child = fork(this.#file, [], {
      env: { ...process.env, ...options.env },
      execArgv: ['--unhandled-rejections=throw', ...(options.execArgv ?? [])],
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    dieWithParent(this.#child);
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.#output += text));
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.#output += text));
    this.#child.on('error', (error) => (this.#output += `[node-worker] ${error.message}\n`));
    this.#child.on('message', (message) => this.#receive(message as Message));
    this.exited = this.#watch();
  }

  /** Starts the module; rejects with its output when it exits or does not `serve()` in time. */
  static async start(module: URL, options: NodeWorkerOptions = {}): Promise<NodeWorker> {
    const worker = new NodeWorker(module, options);
    try {
      await waitFor(() => worker.#ready || worker.#exit !== null, {
        timeoutMs: options.startTimeoutMs ?? 20_000,
        message: `${worker.#file} to call serve()`,
      });
    } catch (error) {
      worker.#child.kill('SIGKILL');
      await worker.exited;
      throw new Error(`${(error as Error).message}\n${worker.output}`, { cause: error });
    }
    if (!worker.#ready) throw worker.#problem('ended before it called serve()');
    return worker;
  }

  /** The process id. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Everything the process wrote to stdout and stderr so far. */
  get output(): string {
    return this.#output;
  }

  /** How the process ended; `null` while it runs. */
  get exit(): WorkerExit | null {
    return this.#exit;
  }

  /**
   * Calls a served method. Rejects with the method's error (its name, code, message and cause), or with the worker's
   * output when the process ends first or the call takes longer than `callTimeoutMs`.
   */
  call<T = unknown>(method: string, ...args: unknown[]): Promise<T> {
    if (this.#exit !== null) return Promise.reject(this.#problem(`is gone, cannot call ${method}`));
    const id = this.#nextId++;
    return new Promise<unknown>((resolve, reject) => {
      const late = (): void => settle(() => reject(this.#problem(`did not answer ${method} in time`)));
      const timer = setTimeout(late, this.#callTimeoutMs);
      const settle = (end: () => void): void => {
        clearTimeout(timer);
        this.#pending.delete(id);
        end();
      };
      this.#pending.set(id, {
        resolve: (value) => settle(() => resolve(value)),
        reject: (error) => settle(() => reject(error)),
      });
      this.#child.send({ id, method, args }, (error) => {
        // A closed channel means the process is ending: its exit tells more than EPIPE would.
        if (error !== null && error !== undefined && this.#child.connected)
          this.#pending.get(id)?.reject(error);
      });
    }) as Promise<T>;
  }

  /** The first event of that name from index `from` on, waiting for it up to `timeoutMs` (5000); rejects then. */
  async event(name: string, { from = 0, timeoutMs = 5000 }: { from?: number; timeoutMs?: number } = {}) {
    return waitFor(
      () => {
        const found = this.events.slice(from).find(({ event }) => event === name);
        if (found === undefined && this.#exit !== null) throw this.#problem('has ended');
        return found;
      },
      { timeoutMs, message: `event ${name}` },
    );
  }

  /** Freezes the process (SIGSTOP): its sockets stay open, its timers do not run. */
  pause(): void {
    this.#child.kill('SIGSTOP');
  }

  /** Lets a frozen process go on (SIGCONT). */
  resume(): void {
    this.#child.kill('SIGCONT');
  }

  /**
   * Sends a signal (SIGKILL by default) and waits until the process is gone, 10 s at most. Rejects when the process
   * had crashed before (an unhandled rejection, say), unless `waitForExit()` has seen that. May be repeated.
   */
  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<WorkerExit> {
    if (this.#exit === null) {
      const sent = this.#child.kill(signal);
      const exit = await this.#gone(10_000, `ignores ${signal}`);
      // A process that was already dying when we sent the signal tells so by its exit code.
      if (!sent || (signal === 'SIGKILL' && exit.code !== null)) this.#refuseCrash(exit);
      this.#expected = true;
      return exit;
    }
    this.#refuseCrash(this.#exit);
    return this.#exit;
  }

  /** Waits for the process to end for a reason of its own; rejects after `timeoutMs`. Any ending is accepted. */
  async waitForExit(timeoutMs = 5000): Promise<WorkerExit> {
    this.#expected = true;
    return waitFor(() => this.#exit, { timeoutMs, message: `${this.#file} to end by itself` });
  }

  /**
   * Disconnects and waits for the process to end by itself, which it does when nothing keeps its event loop busy.
   * Gives the exit code. Rejects (after SIGKILL) when it is still there after `timeoutMs`, and when it ended by a
   * signal, crashed before, or with a code other than 0, with the worker's output in the message.
   */
  async stop({ timeoutMs = 3000 }: { timeoutMs?: number } = {}): Promise<number> {
    if (this.#child.connected) this.#child.disconnect();
    const exit = this.#exit ?? (await this.#gone(timeoutMs, 'did not end by itself after disconnecting'));
    this.#refuseCrash(exit);
    this.#expected = true;
    return exit.code ?? 0;
  }

  /** Not the `close` event: Node does not emit it after `disconnect()`. */
  async #watch(): Promise<WorkerExit> {
    const ended = new Promise<WorkerExit>((resolve) => {
      this.#child.once('exit', (code, signal) => resolve({ code, signal }));
    });
    const drained = [this.#child.stdout, this.#child.stderr].map(
      (stream) => new Promise<void>((resolve) => stream?.once('close', () => resolve())),
    );
    const exit = await ended;
    await Promise.all(drained);
    this.#exit = exit;
    for (const { reject } of this.#pending.values()) reject(this.#problem('ended during the call'));
    return exit;
  }

  #refuseCrash(exit: WorkerExit): void {
    if (!this.#expected && exit.code !== 0) throw this.#problem('crashed');
  }

  async #gone(timeoutMs: number, complaint: string): Promise<WorkerExit> {
    try {
      return await waitFor(() => this.#exit, { timeoutMs });
    } catch {
      const problem = this.#problem(`${complaint} (${timeoutMs} ms)`);
      this.#expected = true;
      this.#child.kill('SIGKILL');
      await this.exited;
      throw problem;
    }
  }

  #receive(message: Message): void {
    if ('ready' in message) this.#ready = true;
    else if ('emitted' in message) this.events.push(message.emitted);
    else if ('error' in message) this.#pending.get(message.id)?.reject(revive(message.error));
    else this.#pending.get(message.id)?.resolve(message.value);
  }

  #problem(what: string): Error {
    const how =
      this.#exit === null ? 'still running' : `code ${this.#exit.code}, signal ${this.#exit.signal}`;
    return new Error(
      `Worker ${this.#file} ${what} (${how}). Its output:\n${this.#output.trim() || '(none)'}`,
    );
  }
}

function revive(plain: PlainError): Error {
  const error = new Error(plain.message, plain.cause === undefined ? {} : { cause: revive(plain.cause) });
  error.name = plain.name;
  if (plain.code !== undefined) Object.assign(error, { code: plain.code });
  if (plain.stack !== undefined) error.stack = `${plain.stack}\n    (in the worker)`;
  return error;
}

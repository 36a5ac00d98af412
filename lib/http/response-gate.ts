import { EventEmitter } from 'node:events';
import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import {
  inheritedMethodsOf,
  inheritGate,
  putGate,
  showState,
  type Gate,
  type SendingMethods,
} from './gated-prototype.js';

/** What a response becomes when its session could not be saved. */
export interface ReplacementAnswer {
  readonly status: number;
  readonly body: unknown;
}

/** What the gate asks of its owner. */
export interface ResponseGateOwner {
  /**
   * Called once, when the first byte of the response is about to leave. Undefined when there is nothing to wait for.
   * Headers set before it resolves go out with the response.
   */
  commit(): Promise<void> | undefined;
  /** Header lines to add, after `commit`: they win over what the handler gives to `writeHead`. */
  headers(): readonly (readonly [name: string, value: string])[];
  /** The answer in place of the handler's, after `commit` rejected; `headers` goes out with it. */
  onFailure(error: unknown): ReplacementAnswer;
}

/** Headers that belong to the handler's own answer, and so leave with it. */
const OF_THE_BODY =
  /^(content-(?!security-policy).*|transfer-encoding|etag|last-modified|location|cache-control|expires|accept-ranges|trailer|set-cookie)$/i;

type Headers = OutgoingHttpHeaders | OutgoingHttpHeader[];

/**
 * Holds a response back until the session of its request is saved, whatever writes it: a framework's reply, a stream
 * piped into it, server-sent events, a filter, `res.end()`. If that fails, another answer goes out instead of it.
 *
 * Node has one place that all of these pass: the response's own `writeHead`, `flushHeaders`, `write` and `end`. They are
 * replaced on the one object, or were on its prototype (`gated-prototype.ts`); while it is held, calls are queued in order
 * and the response says, as it would without the gate, that its headers are sent; a writer is told to wait for `drain`.
 * Where there is nothing to save, the calls go straight through.
 *
 * @param options.deferHead `writeHead` alone does not begin the response: handlers of plain `node:http` call it first
 *   and use the session afterwards. Node itself sends nothing then either
 * @param options.mayInherit nobody will change the response's prototype to one that was not prepared
 * @returns what tells whether the response has begun; a `writeHead` that waits has begun nothing
 */
export function gateResponse(
  response: ServerResponse,
  owner: ResponseGateOwner,
  {
    deferHead = false,
    mayInherit = true,
  }: { readonly deferHead?: boolean; readonly mayInherit?: boolean } = {},
): { readonly hasBegun: boolean } {
  const inherited = mayInherit ? inheritedMethodsOf(response) : undefined;
  const gate = new ResponseGate(response, owner, deferHead, inherited ?? response);
  if (inherited !== undefined) inheritGate(gate);
  else putGate(gate);
  return gate;
}

/** What stands between a response's methods and those who call them. */
class ResponseGate implements Gate {
  // Private, so that who logs the response logs nothing of it.
  readonly #owner: ResponseGateOwner;
  /** The methods that really send. */
  readonly #writeHead: (...args: [number]) => ServerResponse;
  readonly #flushHeaders: () => void;
  readonly #write: (...args: [string]) => boolean;
  readonly #end: (...args: [string, 'utf8'?]) => ServerResponse;
  /** Calls that wait, and the arguments of those that may have a callback. */
  #queue: { readonly call: () => void; readonly args?: unknown[] }[] = NONE;
  #state: 'waiting' | 'holding' | 'open' | 'replaced' = 'waiting';
  /** Who waits for `drain` since a held `write` said no, where it would not hear of it by the response. */
  #waiting: Set<Waiting> | undefined;
  /** Headers the handler gave to `writeHead`. */
  #given: Headers | undefined;
  /** Arguments of a `writeHead` that waits for the first byte. */
  #head: unknown[] | undefined;
  #ended = false;
  #stopped = false;

  constructor(
    readonly response: ServerResponse,
    owner: ResponseGateOwner,
    private readonly deferHead: boolean,
    methods: SendingMethods,
  ) {
    this.#owner = owner;
    // Called with the response: four bound ones would cost each request more.
    this.#writeHead = methods.writeHead as never;
    this.#flushHeaders = methods.flushHeaders;
    this.#write = methods.write as never;
    this.#end = methods.end as never;
  }

  get hasBegun(): boolean {
    return this.#state !== 'waiting' || (this.#head === undefined && this.response.headersSent);
  }

  // Frameworks and filters look at these before they answer a second time, and must see what they would see.
  get headersSent(): boolean | undefined {
    return this.#state === 'holding' || this.#head !== undefined ? true : undefined;
  }

  get writableEnded(): boolean | undefined {
    return this.#state === 'holding' ? this.#ended : undefined;
  }

  writeHead(args: unknown[]): ServerResponse {
    const { response } = this;
    if (this.#head !== undefined) {
      throw Object.assign(new Error('Cannot write headers after they are sent to the client'), {
        code: 'ERR_HTTP_HEADERS_SENT',
      });
    }
    if (this.deferHead && this.#state === 'waiting' && !response.headersSent) this.#deferHead(args);
    else if (this.#passes()) {
      this.#writeHead.apply(response, withoutOurs(response, args, this.#owner) as [number]);
    } else if (this.#state === 'holding') {
      this.#given = headersIn(args) ?? this.#given;
      this.#queue.push({ call: () => response.writeHead(...(args as [number])) });
    }
    return response;
  }

  flushHeaders(): void {
    if (this.#passes()) this.#flushHeaders.call(this.response);
    else if (this.#state === 'holding')
      this.#queue.push({ call: () => this.#flushHeaders.call(this.response) });
  }

  write(args: unknown[]): boolean {
    if (this.#passes()) return this.#write.apply(this.response, args as [string]);
    if (this.#state !== 'holding') {
      callBack(args);
      return true;
    }
    this.#queue.push({ call: () => this.#write.apply(this.response, args as [string]), args });
    this.#stopped = true;
    return false;
  }

  end(args: unknown[]): ServerResponse {
    if (this.#passes()) return this.#end.apply(this.response, args as [string]);
    if (this.#state === 'holding' && !this.#ended) {
      this.#queue.push({ call: () => this.#end.apply(this.response, args as [string]), args });
    } else callBack(args);
    this.#ended = true;
    return this.response;
  }

  /** True when the call may go on now. */
  #passes(): boolean {
    if (this.#state !== 'waiting') return this.#state === 'open';
    const head = this.#head;
    if (head === undefined) return this.#begins();
    this.#head = undefined;
    const begins = this.#begins();
    if (begins) this.response.writeHead(...(head as [number]));
    else this.#queue.push({ call: () => this.response.writeHead(...(head as [number])) });
    return begins;
  }

  #begins(): boolean {
    if (this.response.headersSent) {
      this.#state = 'open';
      return true;
    }
    let committing: Promise<void> | undefined;
    try {
      committing = this.#owner.commit();
    } catch (error) {
      committing = Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
    if (committing === undefined) {
      this.#open();
      return true;
    }
    this.#hold();
    committing
      .then(
        () => this.#release(),
        (error: unknown) => this.#replace(error),
      )
      .catch(() => this.response.destroy()); // neither answer could be sent
    return false;
  }

  #open(): void {
    this.#state = 'open';
    addHeaders(this.response, this.#owner.headers());
  }

  #deferHead(args: unknown[]): void {
    this.#head = args;
    this.#given = headersIn(args);
    this.response.statusCode = args[0] as number;
    showState(this);
  }

  #hold(): void {
    const { response } = this;
    this.#state = 'holding';
    this.#queue = [];
    showState(this);
    const { statusCode } = response;
    if (leadsElsewhere(response)) {
      const waiting = (this.#waiting = new Set<Waiting>());
      overhear(response, (one) => this.#state === 'holding' && waiting.add(one).size > 0);
    }
    // HTTP/2 has no status messages, and warns when asked for one.
    const statusMessage = response.req.httpVersionMajor === 1 ? response.statusMessage : undefined;
    this.#queue.push({
      call: () => {
        response.statusCode = statusCode;
        if (statusMessage !== undefined) response.statusMessage = statusMessage;
      },
    });
  }

  #release(): void {
    try {
      this.#open();
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) next.call();
    } catch (error) {
      this.#replace(error); // in the same turn: nobody may find the response unanswered in between
      return;
    }
    if (this.#stopped && !this.response.writableNeedDrain) this.#drained();
  }

  #drained(): void {
    this.response.emit('drain');
    for (const one of this.#waiting ?? []) if (!one.reached) one.listener.call(this.response);
    this.#waiting?.clear();
  }

  /** After the session could not be saved, or after the handler's own calls failed where they could no longer throw. */
  #replace(error: unknown): void {
    const { response } = this;
    const owner = this.#owner;
    this.#state = 'replaced'; // whatever the handler still writes is dropped
    for (const { args } of this.#queue.splice(0)) if (args !== undefined) callBack(args);
    const { status, body } = owner.onFailure(error);
    if (response.destroyed) return;
    if (response.headersSent) {
      response.destroy(); // what was queued could not be sent to its end, nor be taken back
      return;
    }
    for (const name of response.getHeaderNames()) if (OF_THE_BODY.test(name)) response.removeHeader(name);
    // What others set for every answer (CORS for example) stays; Fastify hands it over only here.
    for (const [name, value] of pairsOf(this.#given)) {
      try {
        if (value !== undefined && !OF_THE_BODY.test(name)) response.setHeader(name, value);
      } catch {
        // Node refuses it: this very header may be why the handler's answer is being replaced.
      }
    }
    const text = JSON.stringify(body);
    response.statusCode = status;
    if (response.req.httpVersionMajor === 1) response.statusMessage = '';
    response.setHeader('Content-Type', 'application/json; charset=utf-8');
    response.setHeader('Content-Length', Buffer.byteLength(text));
    response.setHeader('Cache-Control', 'no-store');
    addHeaders(response, owner.headers());
    this.#state = 'open'; // for what end() itself calls
    this.#writeHead.call(response, status); // now: middleware may have wrapped end(), and call Node's later
    this.#end.call(response, text, 'utf8');
    this.#state = 'replaced';
    if (this.#stopped) this.#drained(); // let a piped source run out
  }
}

const NONE: never[] = [];

/** A listener for `drain`, and whether it has been called. */
interface Waiting {
  readonly listener: () => void;
  reached: boolean;
}

/** Middleware that compresses leads listeners to a stream of its own, which has nothing to drain. */
function leadsElsewhere(response: ServerResponse): boolean {
  return (
    response.on !== EventEmitter.prototype.on || response.addListener !== EventEmitter.prototype.addListener
  );
}

/** Tells of each listener for `drain` that is added from now on, until `heard` returns false. */
function overhear(response: ServerResponse, heard: (one: Waiting) => boolean): void {
  let listening = true;
  for (const name of ['on', 'addListener'] as const) {
    const add = response[name].bind(response) as (event: string, listener: () => void) => ServerResponse;
    response[name] = ((event: string, listener: () => void) => {
      if (!listening || event !== 'drain') return add(event, listener);
      const one: Waiting = { listener, reached: false };
      listening = heard(one);
      const call = () => {
        one.reached = true;
        listener.call(response);
      };
      // By this property removeListener() finds it under the name it was added by.
      return add(event, Object.assign(call, { listener }));
    }) as never;
  }
}

/** A writer that waits for its callback must not wait for ever. */
function callBack(args: unknown[]): void {
  const callback = args.at(-1);
  if (typeof callback === 'function') process.nextTick(callback as () => void);
}

function addHeaders(response: ServerResponse, ours: readonly (readonly [string, string])[]): void {
  if (ours.length === 0 || response.headersSent) return;
  const added = new Set(['set-cookie']); // several are kept, the handler's own among them
  for (const [name, value] of ours) {
    if (added.has(name.toLowerCase())) response.appendHeader(name, value);
    else response.setHeader(name, value);
    added.add(name.toLowerCase());
  }
}

/** Headers given to `writeHead` replace those that are set: what is ours is taken out of them, cookies are joined. */
function withoutOurs(response: ServerResponse, args: unknown[], owner: ResponseGateOwner): unknown[] {
  const ours = owner.headers();
  const last = args.length - 1;
  const given = args[last] as Headers | null | undefined;
  if (ours.length === 0 || last === 0 || typeof given !== 'object' || given === null) return args;
  const pairs = pairsOf(given);
  const kept: [string, OutgoingHttpHeader | undefined][] = [];
  for (const [name, value] of pairs) {
    const own = ours.find(([ourName]) => ourName.toLowerCase() === name.toLowerCase());
    if (own === undefined) kept.push([name, value]);
    else if (name.toLowerCase() === 'set-cookie' && value !== undefined)
      response.appendHeader(name, Array.isArray(value) ? value : String(value));
  }
  const headers: Headers = Array.isArray(given)
    ? kept.flatMap(([name, value]) => [name, value as OutgoingHttpHeader])
    : Object.fromEntries(kept);
  return [...args.slice(0, last), headers];
}

/** The headers among the arguments of `writeHead`. */
function headersIn(args: readonly unknown[]): Headers | undefined {
  const last = args.at(-1);
  return args.length > 1 && typeof last === 'object' && last !== null ? (last as Headers) : undefined;
}

/** Headers in any of the forms `writeHead` takes: an object, names and values in turn, or pairs of them. */
function pairsOf(headers: Headers | undefined): [string, OutgoingHttpHeader | undefined][] {
  if (!Array.isArray(headers)) return Object.entries(headers ?? {});
  const flat: unknown[] = Array.isArray(headers[0]) ? headers.flat() : headers;
  return Array.from({ length: Math.floor(flat.length / 2) }, (_, index) => [
    String(flat[index * 2]),
    flat[index * 2 + 1] as OutgoingHttpHeader,
  ]);
}

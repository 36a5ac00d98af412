// One proxied connection of `tcp-proxy.ts`: two ordered lanes, and the swallowing of one answer.
import type { Socket } from 'node:net';
import { RespScanner } from './resp-scanner.js';

/** Delays in milliseconds, asked for once per chunk; a direction left out is not delayed. */
export interface ProxyDelay {
  upstreamMs?: () => number;
  downstreamMs?: () => number;
}

/** What `cutAfterRequest` did. */
export interface CutReport {
  connectionId: number;
  /** The chunk that matched, as the server got it. */
  request: Buffer;
  /** The server's answer, which the client never got. */
  answer: Buffer;
}

/** Directions in which nothing is forwarded. */
export interface Held {
  upstream: boolean;
  downstream: boolean;
}

/** What the connections share with their proxy. */
export interface ProxyState {
  held: Held;
  delay: ProxyDelay;
  onCommand: ((command: string[], connectionId: number) => void) | undefined;
  take(chunk: Buffer): Arm | undefined;
}

type Item = { kind: 'data'; chunk: Buffer } | { kind: 'end' } | { kind: 'close'; reset: boolean };

/** One direction of one connection: a queue that keeps order through holding and delays. */
class Lane {
  #queue: { item: Item; due: number }[] = [];
  #timer: NodeJS.Timeout | undefined;
  #lastDue = 0;
  readonly #deliver: (item: Item) => void;
  readonly #held: () => boolean;
  readonly #delayMs: () => number;

  constructor(deliver: (item: Item) => void, held: () => boolean, delayMs: () => number) {
    this.#deliver = deliver;
    this.#held = held;
    this.#delayMs = delayMs;
  }

  push(item: Item): void {
    this.#lastDue = Math.max(this.#lastDue, performance.now() + this.#delayMs());
    this.#queue.push({ item, due: this.#lastDue });
    this.pump();
  }

  pump(): void {
    clearTimeout(this.#timer);
    while (!this.#held()) {
      const head = this.#queue[0];
      if (head === undefined) return;
      const wait = head.due - performance.now();
      if (wait > 0) {
        this.#timer = setTimeout(() => this.pump(), Math.ceil(wait));
        return;
      }
      this.#queue.shift();
      this.#deliver(head.item);
    }
  }

  drop(): void {
    clearTimeout(this.#timer);
    this.#queue = [];
  }
}

/** A `cutAfterRequest` that waits for its chunk. */
export interface Arm {
  predicate: (chunk: Buffer) => boolean;
  resolve: (report: CutReport) => void;
  reject: (error: Error) => void;
}

/** A matched one that waits for its answer: replies `first` (excluded) to `last` (included) are swallowed. */
interface Cut {
  arm: Arm;
  request: Buffer;
  first: number;
  last: number;
  answer: Buffer[];
}

// Their replies are not one per command, so answers can no longer be counted on that connection.
const UNCOUNTABLE = /^([ps]?(un)?subscribe|monitor|sync|psync)$/i;

/** One client and its connection to the server; gone when both sockets are closed. */
export class Connection {
  readonly up: Lane;
  readonly down: Lane;
  /** This connection's own, for ever, unlike those of the proxy. */
  readonly abandoned: Held = { upstream: false, downstream: false };
  #commands = new RespScanner({ inline: true, collect: true });
  #replies = new RespScanner();
  #replyCount = 0;
  #uncountable = false;
  #cut: Cut | null = null;

  constructor(
    readonly id: number,
    readonly client: Socket,
    readonly server: Socket,
    readonly proxy: ProxyState,
    onGone: () => void,
  ) {
    const { delay } = proxy;
    this.up = new Lane(
      (item) => this.#forwardUp(item),
      () => proxy.held.upstream || this.abandoned.upstream,
      () => delay.upstreamMs?.() ?? 0,
    );
    this.down = new Lane(
      (item) => this.#forwardDown(item),
      () => proxy.held.downstream || this.abandoned.downstream,
      () => delay.downstreamMs?.() ?? 0,
    );
    this.#wire(client, this.up);
    this.#wire(server, this.down);
    const check = (): void => {
      if (!client.closed || !server.closed) return;
      this.#failCut('the connection ended before the answer came');
      this.up.drop();
      this.down.drop();
      onGone();
    };
    client.once('close', check);
    server.once('close', check);
  }

  destroy(reset: boolean): void {
    this.up.drop();
    this.down.drop();
    if (reset) this.client.resetAndDestroy();
    else this.client.destroy();
    this.server.destroy();
  }

  #wire(socket: Socket, lane: Lane): void {
    let failed = false;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => lane.push({ kind: 'data', chunk }));
    socket.on('end', () => lane.push({ kind: 'end' }));
    socket.on('error', () => (failed = true));
    socket.on('close', () => lane.push({ kind: 'close', reset: failed }));
  }

  #forwardUp(item: Item): void {
    if (item.kind !== 'data') return finish(this.server, item);
    const first = this.#commands.finished;
    for (const { strings } of this.#commands.feed(item.chunk)) {
      if (UNCOUNTABLE.test(strings[0] ?? '')) this.#uncountable = true;
      this.proxy.onCommand?.(strings, this.id);
    }
    const last = this.#commands.finished + (this.#commands.partial ? 1 : 0);
    if (this.#cut === null) {
      const arm = this.proxy.take(item.chunk);
      if (arm !== undefined) this.#cut = { arm, request: item.chunk, first, last, answer: [] };
    }
    if (!this.server.destroyed) this.server.write(item.chunk);
  }

  #forwardDown(item: Item): void {
    if (item.kind !== 'data') {
      if (item.kind === 'close') this.#failCut('the server closed the connection before it answered');
      return finish(this.client, item);
    }
    const { chunk } = item;
    const cut = this.#cut;
    // Bytes up to `keep` answer earlier commands and still reach the client.
    let keep = cut === null ? chunk.length : 0;
    let answered = false;
    const counting = cut !== null && !this.#uncountable && !this.#replies.broken;
    if (counting && this.#replyCount < cut.first) keep = chunk.length;
    for (const { type, end } of this.#replies.feed(chunk)) {
      if (type === '>') continue;
      this.#replyCount += 1;
      if (!counting) continue;
      if (this.#replyCount === cut.first) keep = end;
      if (this.#replyCount >= cut.last) answered = true;
    }
    if (keep > 0 && !this.client.destroyed) this.client.write(chunk.subarray(0, keep));
    if (cut === null) return;
    if (keep < chunk.length) cut.answer.push(chunk.subarray(keep));
    if (answered || !counting) {
      this.#cut = null;
      this.destroy(false);
      cut.arm.resolve({ connectionId: this.id, request: cut.request, answer: Buffer.concat(cut.answer) });
    }
  }

  #failCut(why: string): void {
    this.#cut?.arm.reject(new Error(`cutAfterRequest: ${why}`));
    this.#cut = null;
  }
}

/** Passes a FIN or a close on; bytes written before still go out, unless the other side was reset. */
function finish(socket: Socket, item: Exclude<Item, { kind: 'data' }>): void {
  if (socket.destroyed) return;
  if (item.kind === 'end') socket.end();
  else if (item.reset) socket.resetAndDestroy();
  else socket.destroySoon();
}

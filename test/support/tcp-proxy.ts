// A TCP proxy in front of Redis that can misbehave on command: cut, refuse, hold, delay, swallow one answer.
import { createServer, connect, type Server, type Socket } from 'node:net';
import {
  Connection,
  type Arm,
  type CutReport,
  type Held,
  type ProxyDelay,
  type ProxyState,
} from './proxy-connection.js';

export type { CutReport, ProxyDelay };

const HOST = '127.0.0.1';

/** Where a proxy leads, and what it reports. */
export interface TcpProxyOptions {
  targetPort: number;
  /** 127.0.0.1 by default. */
  targetHost?: string;
  /** Sees each whole command as it is forwarded to the server. */
  onCommand?: (command: string[], connectionId: number) => void;
}

/** Listens on a free port of 127.0.0.1 and forwards each connection. "Upstream" is client to server. */
export class TcpProxy {
  readonly #all = new Set<Connection>();
  readonly #state: ProxyState;
  readonly #options: TcpProxyOptions;
  readonly #server: Server;
  #arms: Arm[] = [];
  #refusing = false;
  #port = 0;
  #accepted = 0;
  #refused = 0;
  #cuts = 0;

  private constructor(options: TcpProxyOptions) {
    this.#options = options;
    this.#state = {
      held: { upstream: false, downstream: false },
      delay: {},
      onCommand: options.onCommand,
      take: (chunk) => this.#take(chunk),
    };
    this.#server = createServer({ allowHalfOpen: true }, (client) => this.#accept(client));
  }

  /** Starts a proxy; rejects when it cannot listen. The target need not be up yet. */
  static async start(options: TcpProxyOptions): Promise<TcpProxy> {
    const proxy = new TcpProxy(options);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once('error', reject);
      proxy.#server.listen(0, HOST, resolve);
    });
    const address = proxy.#server.address();
    proxy.#port = address !== null && typeof address === 'object' ? address.port : 0;
    return proxy;
  }

  /** The port clients connect to. */
  get port(): number {
    return this.#port;
  }

  /** `redis://127.0.0.1:<port>`. */
  get url(): string {
    return `redis://${HOST}:${this.#port}`;
  }

  /** Connections whose client has not hung up, now. */
  get connections(): number {
    let open = 0;
    for (const { client } of this.#all) if (!client.destroyed && !client.readableEnded) open += 1;
    return open;
  }

  /** Connections accepted since the start, refused ones not counted. */
  get accepted(): number {
    return this.#accepted;
  }

  /** Connections refused since the start. */
  get refused(): number {
    return this.#refused;
  }

  /** Answers swallowed by `cutAfterRequest` since the start. */
  get cuts(): number {
    return this.#cuts;
  }

  /** Resets (RST) all connections at once, bytes under way are lost; tells how many there were. */
  cutAll(): number {
    const count = this.connections;
    for (const connection of this.#all) connection.destroy(true);
    return count;
  }

  /** While on, a new connection is accepted by the system and reset at once; those already there stay. */
  refuse(on: boolean): void {
    this.#refusing = on;
  }

  /**
   * Stops forwarding in the named directions (both when none is named), on present and future connections, without
   * telling anyone: bytes, FIN and RST are held back, in order, until `resume()`.
   */
  blackhole(directions: { upstream?: boolean; downstream?: boolean } = {}): void {
    this.#state.held = which(directions);
    for (const connection of this.#all) this.#pump(connection);
  }

  /** Ends `blackhole`: what was held goes out now, in order. */
  resume(): void {
    this.#state.held = { upstream: false, downstream: false };
    for (const connection of this.#all) this.#pump(connection);
  }

  /**
   * Forgets the connections there are, as a router does that lost its table: in the named directions (both when none
   * is named) they never forward anything again, FIN and RST included, whatever `resume()` does. New ones work.
   */
  abandon(directions: { upstream?: boolean; downstream?: boolean } = {}): void {
    const { upstream, downstream } = which(directions);
    for (const { abandoned } of this.#all) {
      abandoned.upstream ||= upstream;
      abandoned.downstream ||= downstream;
    }
  }

  /** Delays each chunk that comes in from now on; byte order is kept. `delay({})` ends it. */
  delay({ upstreamMs, downstreamMs }: ProxyDelay): void {
    this.#state.delay.upstreamMs = upstreamMs;
    this.#state.delay.downstreamMs = downstreamMs;
  }

  /**
   * Arms one cut. The first chunk from any client for which `predicate` holds is forwarded; the server's answer to
   * all commands in it is awaited and swallowed; then the client's socket is closed. So the server has run the
   * command and the client cannot know. Answers to earlier commands still reach the client, pushes (RESP3) do not
   * count as answers; on a connection that has subscribed, the next bytes from the server count as the answer.
   * Resolves after the cut. Rejects (silently when nobody listens) if the connection ends before the answer, or on
   * `disarm()` or `close()`. Several may be armed; each takes one chunk, in the order they were armed.
   */
  cutAfterRequest(predicate: (chunk: Buffer) => boolean): Promise<CutReport> {
    const cut = new Promise<CutReport>((resolve, reject) => {
      const counted = (report: CutReport): void => {
        this.#cuts += 1;
        resolve(report);
      };
      this.#arms.push({ predicate, resolve: counted, reject });
    });
    cut.catch(() => undefined);
    return cut;
  }

  /** Takes back the cuts that have not met their chunk yet (their promises reject); tells how many. */
  disarm(): number {
    const arms = this.#arms.splice(0);
    for (const { reject } of arms) reject(new Error('cutAfterRequest: disarmed before any chunk matched'));
    return arms.length;
  }

  /** Stops listening, destroys all sockets, drops what is held. May be repeated. */
  async close(): Promise<void> {
    this.disarm();
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const connection of this.#all) connection.destroy(false);
    await closed;
  }

  #accept(client: Socket): void {
    if (this.#refusing) {
      this.#refused += 1;
      client.on('error', () => undefined);
      client.resetAndDestroy();
      return;
    }
    this.#accepted += 1;
    const { targetPort, targetHost = HOST } = this.#options;
    const server = connect({ port: targetPort, host: targetHost, allowHalfOpen: true });
    const connection = new Connection(this.#accepted, client, server, this.#state, () =>
      this.#all.delete(connection),
    );
    this.#all.add(connection);
  }

  /** The first arm whose predicate holds; one whose predicate throws is rejected with that error. */
  #take(chunk: Buffer): Arm | undefined {
    for (const arm of this.#arms) {
      try {
        if (!arm.predicate(chunk)) continue;
        this.#arms = this.#arms.filter((other) => other !== arm);
        return arm;
      } catch (error) {
        this.#arms = this.#arms.filter((other) => other !== arm);
        arm.reject(error instanceof Error ? error : new Error(String(error)));
      }
    }
    return undefined;
  }

  #pump({ up, down }: Connection): void {
    up.pump();
    down.pump();
  }
}

/** The directions meant: both when none is named. */
function which({ upstream, downstream }: Partial<Held>): Held {
  const both = upstream === undefined && downstream === undefined;
  return { upstream: upstream ?? both, downstream: downstream ?? both };
}

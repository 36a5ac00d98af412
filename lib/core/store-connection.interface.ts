/** What the subscriber must know of the store's command connection (COHERENCE rules 2 to 4). */
export interface StoreConnection {
  /** Called whenever the connection is lost or its server turns out not to be a writable master. */
  onLost(listener: () => void): void;
  /** `run_id` of the server the connection is attached to now. Rejects when it is not attached. */
  serverRunId(): Promise<string>;
  /** What the server says of itself: `master`, or `slave`. Rejects when the connection is not attached. */
  serverRole(): Promise<string>;
  /** The server was found not to be the master: the connection is made anew, and checked. */
  giveUp(): void;
}

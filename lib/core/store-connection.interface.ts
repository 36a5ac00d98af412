/** What the subscriber must know of the store's command connection (COHERENCE rules 2 and 3). */
export interface StoreConnection {
  /** Called whenever the connection is lost or its server turns out not to be a writable master. */
  onLost(listener: () => void): void;
  /** `run_id` of the server the connection is attached to now. Rejects when it is not attached. */
  serverRunId(): Promise<string>;
}

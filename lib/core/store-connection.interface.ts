/** What the subscriber must know of the store's command connection (COHERENCE rules 2 to 4). */
export interface StoreConnection {
  /** Called whenever the connection is lost or its server turns out not to be a writable master. */
  onLost(listener: () => void): void;
  /** `run_id` of the server the connection is attached to now. Rejects when it is not attached. */
  serverRunId(): Promise<string>;
  /** What the server says of itself: `master`, or `slave`. Rejects when the connection is not attached. */
  serverRole(): Promise<string>;
  /** Whether the server has this key. Rejects when the connection is not attached, or the server does not own its slot. */
  exists(key: string): Promise<boolean>;
  /**
   * The server may not be the master any more: it is asked, and the connection made anew if it is not.
   *
   * @param why `silence`: this process, or the server, has been silent so long that there may be a new master. Sentinels
   *   know, and are asked.
   */
  suspect(why: 'role' | 'silence'): void;
}

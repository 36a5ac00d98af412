import type { ActiveSession } from './active-session.js';
import type { WriteOptions } from './session-engine.js';
import type { SessionMetadata } from './session-record.interface.js';

/** What carries a session to and from its client, an HTTP request for example, and what it must know of the session. */
export interface SessionBinding {
  /** Called before the holder first sees or changes the data: from now on there may be something to save. */
  onUse(): void;
  /**
   * Saves the session itself, where more than the data depends on that (whose it is, how long it lives); undefined: the
   * session is to do it.
   */
  saves?(session: ActiveSession<object>, options?: WriteOptions): Promise<void> | undefined;
  /** Called before a session that was not stored is, or is cleared; rejects where none may begin. */
  beforeStoring?(): Promise<void>;
  /**
   * Called before a session that is not stored is ended: whoever signs out by a token that was rotated away means the
   * session that has the new one. True if that was ended.
   */
  endSuccessor?(): Promise<boolean>;
  /** Where and on what a session that is created now begins. */
  metadata(): SessionMetadata;
}

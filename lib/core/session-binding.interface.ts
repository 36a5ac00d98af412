import type { SessionMetadata } from './session-record.interface.js';

/** What carries a session to and from its client, an HTTP request for example, and what it must know of the session. */
export interface SessionBinding {
  /** Called before the holder first sees or changes the data: from now on there may be something to save. */
  onUse(): void;
  /** Where and on what a session that is created now begins. */
  metadata(): SessionMetadata;
}

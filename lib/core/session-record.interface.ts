/**
 * Where and on what a session was created, for the user's list of devices. All parts are optional.
 *
 * @publicApi
 */
export interface SessionMetadata {
  /** Client address; cut at 64 characters. */
  readonly ip?: string;
  /** `User-Agent` header; cut at 512 characters. */
  readonly userAgent?: string;
  /** A name for people, e.g. `'Work laptop'`; more than 128 characters are an error. */
  readonly label?: string;
  /** When the user last proved who they are, by signing in or again; epoch milliseconds. Set by the module. */
  readonly authenticatedAt?: number;
  /** When the token was last replaced by the option `rotateEvery`; epoch milliseconds. Set by the module. */
  readonly rotatedAt?: number;
}

/**
 * A session as a store keeps it. Immutable: every change makes a new record with a higher version.
 * Points in time are epoch milliseconds of the store's clock.
 *
 * @publicApi
 */
export interface SessionRecord {
  /** Public id (23 characters); safe to log, useless for logging in. */
  readonly id: string;
  /** Null for an anonymous session. Never changes for one id. */
  readonly userId: string | null;
  /** Grows with every change but a touch; microseconds of the store's clock or one more than the last. */
  readonly version: number;
  readonly createdAt: number;
  readonly lastAccess: number;
  /** Milliseconds without use after which the session ends; 0 = never. */
  readonly idleTimeout: number;
  /** Point in time at which it ends whatever happens; 0 = never. */
  readonly absoluteDeadline: number;
  readonly metadata: SessionMetadata;
  /** The data as the codec wrote it. */
  readonly data: string;
}

/** When the record's life ends: the earlier of idle and absolute deadline; Infinity when it has neither. */
export function deadlineOf(
  record: Pick<SessionRecord, 'lastAccess' | 'idleTimeout' | 'absoluteDeadline'>,
): number {
  const idle = record.idleTimeout > 0 ? record.lastAccess + record.idleTimeout : Infinity;
  const absolute = record.absoluteDeadline > 0 ? record.absoluteDeadline : Infinity;
  return idle < absolute ? idle : absolute;
}

/**
 * A session as lists show it: never its data, never its token.
 *
 * @publicApi
 */
export interface SessionInfo {
  readonly id: string;
  readonly userId: string | null;
  readonly createdAt: number;
  readonly lastAccess: number;
  /** Epoch milliseconds; null = never. */
  readonly expiresAt: number | null;
  /** Milliseconds since the last access. */
  readonly idle: number;
  readonly metadata: SessionMetadata;
}

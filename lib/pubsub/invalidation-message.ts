import type { InvalidationOperation } from '../events/session-events.js';

/** One change of one session, as scripts publish it: `<operation> <id> <version> <origin>`; never a token, never data. */
export interface InvalidationMessage {
  readonly operation: InvalidationOperation;
  readonly id: string;
  /** Copies below it are void. */
  readonly version: number;
  /** `instanceId` of the process that made the change. */
  readonly origin: string;
}

const FORM = /^(create|update|destroy) ([A-Za-z0-9_-]{23}) (\d{1,16}) ([A-Za-z0-9._:~-]{1,64})$/;
/** operation 7, id 23, version 16, origin 64 and three spaces. */
const MAX_LENGTH = 113;

export function formatInvalidation({ operation, id, version, origin }: InvalidationMessage): string {
  return `${operation} ${id} ${String(version).padStart(16, '0')} ${origin}`;
}

/** Null for anything that is not an invalidation: the channel may carry what others publish on it. */
export function parseInvalidation(text: unknown): InvalidationMessage | null {
  if (typeof text !== 'string' || text.length > MAX_LENGTH) return null;
  const match = FORM.exec(text);
  if (match === null) return null;
  const [, operation, id, version, origin] = match as unknown as [
    string,
    InvalidationOperation,
    string,
    string,
    string,
  ];
  return { operation, id, version: Number(version), origin };
}

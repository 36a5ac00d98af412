import { SessionStoreUnavailableError } from '../index.js';

/** The file cannot be opened: stops the boot. */
export function cannotOpen(
  path: string,
  detail: string,
  advice: string,
  cause?: unknown,
): SessionStoreUnavailableError {
  return new SessionStoreUnavailableError(`open ${path}`, detail, false, {
    advice,
    ...(cause !== undefined && { cause }),
  });
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

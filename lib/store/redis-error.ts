/**
 * What went wrong, without what it went wrong with: ioredis errors carry the command's arguments, and some server
 * messages quote them. Neither may reach a log through `cause`.
 */
export function withoutArguments(error: unknown): Error {
  const message = error instanceof Error ? error.message : 'unknown error';
  const clean = new Error(message.replace(/,? ?with args beginning with:[^]*$/, '').slice(0, 300));
  clean.name = error instanceof Error ? error.name : 'Error';
  delete clean.stack; // of no use to a reader: it ends in ioredis' parser
  return clean;
}

/** True for an error the server answered with; false for a lost or refused connection. */
export function isReply(error: unknown): error is Error {
  return error instanceof Error && error.name === 'ReplyError';
}

/** The server is alive but not the writable master we need: give the connection up and ask again elsewhere. */
export function isNotMaster(error: unknown): boolean {
  return isReply(error) && /^(READONLY|MASTERDOWN)/.test(error.message);
}

/** What a server of a Cluster says of a slot that it does not, or not at the moment, serve. */
export type Redirection =
  { readonly kind: 'MOVED' | 'ASK'; readonly node: string } | { readonly kind: 'TRYAGAIN' | 'CLUSTERDOWN' };

/** Null for any other error. */
export function redirectionOf(error: unknown): Redirection | null {
  if (!isReply(error)) return null;
  const [kind, , node] = error.message.split(' ');
  if (kind === 'TRYAGAIN' || kind === 'CLUSTERDOWN') return { kind };
  return (kind === 'MOVED' || kind === 'ASK') && node !== undefined ? { kind, node } : null;
}

/** ioredis refused to write the command at all, so that the server cannot have run it. */
export function wasNotSent(error: unknown): boolean {
  return error instanceof Error && /isn't writeable/.test(error.message);
}

/** The server does not know the script (never run, `SCRIPT FLUSH`, a restart) and did nothing. */
export function isNoScript(error: unknown): boolean {
  return isReply(error) && error.message.startsWith('NOSCRIPT');
}

/**
 * The script had begun when it failed, so that some of its commands may have been run: Redis does not roll back. Not
 * so where the first write is what was refused: a full or read-only server, one with too few replicas, or no right to
 * publish.
 */
export function isMidScript(error: unknown): boolean {
  return (
    isReply(error) &&
    /@user_script|script: /.test(error.message) &&
    !/^(OOM|READONLY|MISCONF|NOREPLICAS)|channel/.test(error.message)
  );
}

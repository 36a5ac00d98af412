import { createHash } from 'node:crypto';

/** A Lua script and the SHA-1 by which the server knows it once it has run. */
export interface Script {
  readonly lua: string;
  readonly sha: string;
  /** The same for a Cluster, where changes are announced to the subscribers of their slot. */
  readonly sharded: Omit<Script, 'sharded'>;
}

/** Names that every script uses all the time: looking them up each time costs the server more than this once. */
const NAMES = 'local call, format, sub = redis.call, string.format, string.sub';

export function script(body: string): Script {
  const lua = NAMES + body;
  return { ...withSha(lua), sharded: withSha(lua.replaceAll("'PUBLISH'", "'SPUBLISH'")) };
}

function withSha(lua: string): Omit<Script, 'sharded'> {
  return { lua, sha: createHash('sha1').update(lua).digest('hex') };
}

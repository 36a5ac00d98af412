import { createHash } from 'node:crypto';

/** A Lua script and the SHA-1 by which the server knows it once it has run. */
export interface Script {
  readonly lua: string;
  readonly sha: string;
}

export function script(lua: string): Script {
  return { lua, sha: createHash('sha1').update(lua).digest('hex') };
}

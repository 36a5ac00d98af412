// The run's Redis as seen from a spec: where it is, and how to keep out of the other specs' keys.
import { randomBytes } from 'node:crypto';
import { inject } from 'vitest';
import type {} from './global-setup.js';

/** The Redis that `global-setup.ts` provides; throws when the vitest config does not list it. */
export function testRedisUrl(): string {
  const url = inject('redisUrl') as string | undefined;
  if (url === undefined)
    throw new Error('No redisUrl provided: add test/support/global-setup.ts to globalSetup');
  return url;
}

/** A key prefix nobody else uses, like `t-5f0c9a3b21de:`; free of braces and of glob characters. */
export function uniquePrefix(): string {
  return `t-${randomBytes(6).toString('hex')}:`;
}

/** The part of an ioredis client that `deleteByPrefix` needs. */
export interface CommandClient {
  call(command: string, ...args: (string | Buffer | number)[]): Promise<unknown>;
}

/**
 * Deletes the keys that begin with `prefix` (taken literally) and tells how many went. Goes by SCAN, so other specs'
 * keys stay. Throws on an empty prefix; the client must have no `keyPrefix` of its own.
 */
export async function deleteByPrefix(client: CommandClient, prefix: string): Promise<number> {
  if (prefix === '') throw new Error('deleteByPrefix: an empty prefix would delete everything');
  const pattern = `${prefix.replace(/[\\*?[\]]/g, '\\$&')}*`;
  let cursor = '0';
  let deleted = 0;
  do {
    const [next, keys] = (await client.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000)) as [
      string,
      string[],
    ];
    if (keys.length > 0) deleted += Number(await client.call('UNLINK', ...keys));
    cursor = next;
  } while (cursor !== '0');
  return deleted;
}

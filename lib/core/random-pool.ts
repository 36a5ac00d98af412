import { randomFillSync } from 'node:crypto';

// Drawn for many uses at once: one call to the generator costs more than the bytes.
const pool = Buffer.alloc(4096);
let offset = pool.length;

/**
 * Bytes from the operating system's random generator, handed out once: the caller gets a view that is overwritten
 * with zeros when `use` returns, so that no secret stays in memory longer than needed.
 */
export function withRandomBytes<R>(count: number, use: (bytes: Buffer) => R): R {
  if (offset + count > pool.length) {
    randomFillSync(pool);
    offset = 0;
  }
  const bytes = pool.subarray(offset, offset + count);
  offset += count;
  try {
    return use(bytes);
  } finally {
    bytes.fill(0);
  }
}

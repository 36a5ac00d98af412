import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

/** What we need of LMDB's file format (data version of lmdb 3): a page begins with 24 bytes of header. */
const PAGE_HEADER = 24;
const MAGIC = 0xbeefc0de;
const META_BYTES = 160;
const FLAGS_AT = 18;
const BRANCH = 1;
const LEAF = 2;
/** Of a node in a leaf. */
const BIG_DATA = 1;
const NO_PAGE = 0xffff_ffff_ffff_ffffn;

interface Meta {
  readonly pageSize: number;
  /** Roots of the free list and of the data. */
  readonly roots: readonly bigint[];
  readonly lastPage: number;
  readonly transaction: bigint;
}

/**
 * Refuses a file that is none of LMDB's, or of which a part is missing: LMDB itself would end the process over it. Costs
 * two small reads, unless the file is shorter than its last page: then its tree is walked. Pages that nothing leads to may
 * be missing rightly.
 *
 * @throws {Error} saying what is wrong
 */
export function checkDataFile(file: string): void {
  const handle = openSync(file, 'r');
  try {
    if (fstatSync(handle).size === 0) return; // new
    const first = readMeta(handle, 0);
    const second = first && readMeta(handle, first.pageSize);
    // After what leads to the pages: another process may be making the file longer.
    const { size } = fstatSync(handle);
    if (!first || !second) throw new Error('it is not a file of LMDB, or its beginning is damaged');
    const { lastPage, pageSize, roots } = second.transaction > first.transaction ? second : first;
    if (size >= (lastPage + 1) * pageSize) return;
    for (const root of roots) walk(handle, root, pageSize, Math.floor(size / pageSize));
  } finally {
    closeSync(handle);
  }
}

function readMeta(handle: number, at: number): Meta | null {
  const bytes = Buffer.alloc(META_BYTES);
  if (readSync(handle, bytes, 0, META_BYTES, at) < META_BYTES) return null;
  const u64 = (offset: number) => bytes.readBigUInt64LE(offset);
  const pageSize = bytes.readUInt32LE(48);
  if (bytes.readUInt32LE(PAGE_HEADER) !== MAGIC || pageSize < 256 || pageSize > 65_536) return null;
  return { pageSize, roots: [u64(88), u64(136)], lastPage: Number(u64(144)), transaction: u64(152) };
}

/** Follows the branches down to the leaves, and these to long values. */
function walk(handle: number, root: bigint, pageSize: number, pages: number): void {
  const page = Buffer.alloc(pageSize);
  const seen = new Set<bigint>();
  const open = root === NO_PAGE ? [] : [root];
  for (let number = open.pop(); number !== undefined; number = open.pop()) {
    if (number >= pages || seen.has(number)) throw new Error('a part of it is missing');
    seen.add(number);
    readSync(handle, page, 0, pageSize, Number(number) * pageSize);
    const flags = page.readUInt16LE(FLAGS_AT);
    if ((flags & (BRANCH | LEAF)) === 0) throw new Error('a page of it is damaged');
    const nodes = page.readUInt16LE(FLAGS_AT + 2) >> 1;
    for (let i = 0; i < nodes; i++) {
      const node = PAGE_HEADER + page.readUInt16LE(PAGE_HEADER + i * 2);
      if (node + 8 > pageSize) throw new Error('a page of it is damaged');
      if ((flags & BRANCH) !== 0) open.push(BigInt(page.readUIntLE(node, 6)));
      else if ((page.readUInt16LE(node + 4) & BIG_DATA) !== 0) {
        // A long value has pages of its own, one behind the other.
        const at = node + 8 + page.readUInt16LE(node + 6);
        const end = Number(page.readBigUInt64LE(at)) * pageSize + PAGE_HEADER + page.readUInt32LE(node);
        if (end > pages * pageSize) throw new Error('a part of it is missing');
      }
    }
  }
}

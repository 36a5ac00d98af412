// Sides that only look something up: loops that cost next to nothing beside it.
import { runInThisContext } from 'node:vm';

/** Sessions that lookups go round; a power of two, so that no division is measured. */
export const ROUND = 1_024;

let made = 0;

/**
 * Code of its own for each side, by a source of its own: closures of one place in a file share what the compiler learns, and
 * a loop that has seen many lookups inlines none.
 */
export function compile(source) {
  return runInThisContext(`(${source}) // ${++made}`);
}

const counted = (run) => {
  let found = 0;
  return {
    async run(count, concurrency) {
      found = await run(count, concurrency);
    },
    verify(count) {
      if (found !== count)
        throw new Error(`The benchmark is wrong: ${found} of ${count} lookups found what they should`);
    },
  };
};

/** @param {(index: number) => boolean} lookup true when it found what it should under a number below `ROUND` */
export function looped(lookup) {
  const loop = compile(`(count, lookup) => {
    let found = 0;
    for (let index = 0; index < count; index++) if (lookup(index & ${ROUND - 1})) found++;
    return found;
  }`);
  return counted((count) => loop(count, lookup));
}

/**
 * The same, awaited as a caller does: one `await` for each lookup, of a promise or of a plain value.
 *
 * @param {(index: number) => unknown} lookup under a number below `ROUND`
 * @param {(found: any) => boolean} isRight true for what it should have found
 */
export function awaited(lookup, isRight) {
  const loop = compile(`async (count, concurrency, worker, lookup, isRight) => {
    let found = 0;
    for (let index = worker; index < count; index += concurrency)
      if (isRight(await lookup(index & ${ROUND - 1}))) found++;
    return found;
  }`);
  return counted(async (count, concurrency) => {
    const workers = Array.from({ length: concurrency }, (_, worker) =>
      loop(count, concurrency, worker, lookup, isRight),
    );
    return (await Promise.all(workers)).reduce((sum, found) => sum + found, 0);
  });
}

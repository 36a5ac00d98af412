import fc from 'fast-check';

// Keys named __proto__ have a test of their own.
export const key = fc.string({ unit: 'binary' }).filter((text) => text !== '__proto__');
const rich = fc.letrec((tie) => ({
  leaf: fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.double(),
    fc.integer(),
    fc.boolean(),
    fc.bigInt(),
    fc.date({ noInvalidDate: true }),
    fc.uint8Array(),
    fc.uint8Array().map((bytes) => Buffer.from(bytes)),
    fc.constantFrom(null, undefined, Number.NaN, -0, Infinity, -Infinity),
  ),
  value: fc.oneof(
    { maxDepth: 4, depthSize: 'small' },
    tie('leaf'),
    fc.array(tie('value'), { maxLength: 5 }),
    fc.dictionary(key, tie('value'), { maxKeys: 5, noNullPrototype: true }),
    fc.array(fc.tuple(tie('leaf'), tie('value')), { maxLength: 4 }).map((entries) => new Map(entries)),
    fc.array(tie('leaf'), { maxLength: 4 }).map((values) => new Set(values)),
  ),
}));
/** Data of every type that the default codec keeps, nested. */
export const richData = fc.dictionary(key, rich.value, { maxKeys: 6, noNullPrototype: true });

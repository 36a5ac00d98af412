import { describe, expect, it } from 'vitest';
import { bestOf, compareRatios, keyOf, ratiosOf } from '../../bench/regressions.mjs';

const row = { family: 'get', title: 'get, from Redis', against: 'GET', concurrency: 64, ratio: 0.81234 };

describe('compareRatios()', () => {
  it('names nothing when ratios are the same, better, or worse by just the tolerance', () => {
    const { fallen } = compareRatios(
      { same: 0.5, better: 0.5, edge: 1 },
      { same: 0.5, better: 5, edge: 0.8 },
      0.2,
    );

    expect(fallen).toEqual([]);
  });

  it('names what fell by more than 20 % of its own baseline, the deepest fall first', () => {
    const baseline = { small: 0.1, large: 20, fine: 1 };

    const { fallen } = compareRatios(baseline, { small: 0.079, large: 10, fine: 0.9 });

    expect(fallen.map(({ name }) => name)).toEqual(['large', 'small']);
    expect(fallen[0]).toMatchObject({ was: 20, is: 10, fall: 0.5 });
    expect(fallen[1]!.fall).toBeCloseTo(0.21);
  });

  it('names a row of the baseline that was not measured, so that a renamed one cannot slip out', () => {
    expect(compareRatios({ gone: 1 }, {}).fallen).toEqual([{ name: 'gone', was: 1, is: undefined, fall: 1 }]);
  });

  it('names a ratio that is not a number', () => {
    expect(compareRatios({ broken: 1 }, { broken: NaN }).fallen).toHaveLength(1);
  });

  it('tells of rows that the baseline does not have, and takes none for a fall', () => {
    expect(compareRatios({ old: 1 }, { old: 1, young: 0.01 })).toEqual({ fallen: [], added: ['young'] });
  });
});

describe('bestOf()', () => {
  it('keeps the better of both measurements, and what only one of them has', () => {
    expect(bestOf({ a: 1, b: 2, c: 3 }, { a: 2, b: 1, d: 4 })).toEqual({ a: 2, b: 2, c: 3, d: 4 });
  });
});

describe('ratiosOf()', () => {
  it('gives each family, title, baseline and concurrency a name of its own', () => {
    const rows = [
      row,
      { ...row, family: 'cache' },
      { ...row, title: 'get' },
      { ...row, against: 'SET' },
      { ...row, concurrency: 1 },
      { ...row, concurrency: 1, sync: true },
    ];

    expect(Object.keys(ratiosOf(rows))).toHaveLength(rows.length);
  });

  it('keeps three digits, whatever the size of the ratio', () => {
    expect(ratiosOf([row])).toEqual({ [keyOf(row)]: 0.812 });
    expect(ratiosOf([{ ...row, ratio: 123.456 }])).toEqual({ [keyOf(row)]: 123 });
    expect(ratiosOf([{ ...row, ratio: 0.012345 }])).toEqual({ [keyOf(row)]: 0.0123 });
  });
});

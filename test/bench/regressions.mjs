// Whether ratios have fallen, compared with those of a baseline. Pure: no file, no clock.

/** Of the baseline's ratio; a fall of more than this is no noise. */
export const TOLERANCE = 0.2;

/** The name of a row in the baseline. */
export const keyOf = ({ family, title, against, concurrency, sync = false }) =>
  `${family}: ${title} : ${against}, ${sync ? 'no await' : `concurrency ${concurrency}`}`;

/** Names to ratios, to three digits. */
export const ratiosOf = (results) =>
  Object.fromEntries(results.map((row) => [keyOf(row), Number(row.ratio.toPrecision(3))]));

/**
 * What is worse than in the baseline: fallen by more than the tolerance, or not measured at all. What the baseline does not
 * have is new, and no regression.
 *
 * @param {Record<string, number>} baseline ratios by name
 * @param {Record<string, number>} current the same, of now
 * @returns {{ fallen: { name: string, was: number, is: number | undefined, fall: number }[], added: string[] }} the deepest
 *   fall first; `fall` is its share of the baseline's ratio
 */
export function compareRatios(baseline, current, tolerance = TOLERANCE) {
  const fallen = [];
  for (const [name, was] of Object.entries(baseline)) {
    const is = current[name];
    const fall = is === undefined ? 1 : 1 - is / was;
    // Written so that what is not a number counts as fallen.
    if (!(fall <= tolerance)) fallen.push({ name, was, is, fall });
  }
  fallen.sort((a, b) => b.fall - a.fall);
  return { fallen, added: Object.keys(current).filter((name) => !(name in baseline)) };
}

/** Of two measurements the better one of each row: what was slow once only was disturbed. */
export function bestOf(one, other) {
  const best = { ...one };
  for (const [name, ratio] of Object.entries(other)) best[name] = Math.max(ratio, best[name] ?? ratio);
  return best;
}

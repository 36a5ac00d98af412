// Types of regressions.mjs for the test of it.
export declare const TOLERANCE: number;

export interface Row {
  readonly family: string;
  readonly title: string;
  readonly against: string;
  readonly concurrency: number;
  readonly sync?: boolean;
  readonly ratio: number;
}

export type Ratios = Readonly<Record<string, number>>;

export interface Fall {
  readonly name: string;
  readonly was: number;
  readonly is: number | undefined;
  readonly fall: number;
}

export declare function keyOf(row: Row): string;
export declare function ratiosOf(rows: readonly Row[]): Record<string, number>;
export declare function compareRatios(
  baseline: Ratios,
  current: Ratios,
  tolerance?: number,
): { fallen: Fall[]; added: string[] };
export declare function bestOf(one: Ratios, other: Ratios): Record<string, number>;

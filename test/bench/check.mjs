// `npm run bench:check [-- --update] [-- --only get,create]`
//
// The quick families' ratios beside those of baseline.json, never absolute times: names what fell by more than 20 %, and ends
// with 1 then. What fell is measured once more before it is believed. Not part of `npm test`: a busy machine can fail it.
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { FAMILIES } from './families.mjs';
import { chooseOnly } from './only.mjs';
import { bestOf, compareRatios, ratiosOf, TOLERANCE } from './regressions.mjs';

const run = promisify(execFile);
const BASELINE = fileURLToPath(new URL('baseline.json', import.meta.url));
const BENCH = fileURLToPath(new URL('bench.mjs', import.meta.url));
/** How often a baseline's rows are measured; the middle one is written. */
const BASELINE_RUNS = 3;

const { values: options } = parseArgs({ options: { update: { type: 'boolean' }, only: { type: 'string' } } });
const families = chooseOnly(options.only, Object.keys(FAMILIES));
process.exitCode = options.update ? await update() : await compare();

async function measure(names) {
  const folder = mkdtempSync(join(tmpdir(), 'sessionkit-bench-check-'));
  const file = join(folder, 'results.json');
  try {
    await run(process.execPath, ['--expose-gc', BENCH, '--quick', '--only', names.join(','), '--json', file]);
    const { results } = JSON.parse(readFileSync(file, 'utf8'));
    return ratiosOf(results);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function update() {
  const runs = [];
  for (let turn = 0; turn < BASELINE_RUNS; turn++) runs.push(await measure(families));
  const middle = (name) =>
    runs.map((one) => one[name]).toSorted((a, b) => a - b)[Math.floor(runs.length / 2)];
  const measured = Object.fromEntries(Object.keys(runs[0]).map((name) => [name, middle(name)]));
  // Families that were not measured keep their rows.
  const kept = options.only === undefined ? {} : read();
  writeFileSync(BASELINE, `${JSON.stringify({ ...kept, ...measured }, null, 2)}\n`);
  console.log(`${Object.keys(measured).length} ratios written to test/bench/baseline.json.`);
  return 0;
}

function read() {
  try {
    return JSON.parse(readFileSync(BASELINE, 'utf8'));
  } catch (error) {
    console.error(
      `test/bench/baseline.json cannot be read (${error.message}): write it with bench:check -- --update.`,
    );
    process.exit(2);
  }
}

async function compare() {
  const whole = read();
  const familyOf = (name) => name.slice(0, name.indexOf(':'));
  const baseline = Object.fromEntries(
    Object.entries(whole).filter(([name]) => families.includes(familyOf(name))),
  );
  let current = await measure(families);
  let { fallen, added } = compareRatios(baseline, current);
  if (fallen.length > 0) {
    const again = [...new Set(fallen.map(({ name }) => familyOf(name)))].filter((name) =>
      Object.hasOwn(FAMILIES, name),
    );
    console.log(`${fallen.length} fell; measuring once more: ${again.join(', ')}.`);
    if (again.length > 0) current = bestOf(current, await measure(again));
    ({ fallen, added } = compareRatios(baseline, current));
  }
  for (const [name, was] of Object.entries(baseline)) {
    const is = current[name];
    const mark = fallen.some((one) => one.name === name) ? '  FELL' : '';
    console.log(`${was.toFixed(3)} -> ${is?.toFixed(3) ?? 'not measured'}  ${name}${mark}`);
  }
  for (const name of added) console.log(`new: ${current[name]}  ${name}`);
  if (fallen.length === 0) {
    console.log(`No ratio fell by more than ${TOLERANCE * 100} %.`);
    return 0;
  }
  const [load] = loadavg();
  if (load > availableParallelism() / 2)
    console.error(`\nThe machine is busy (load ${load.toFixed(1)}): this may be noise.`);
  console.error(`\nFell by more than ${TOLERANCE * 100} %, twice:`);
  for (const { name, was, is, fall } of fallen)
    console.error(`- ${name}: ${was} -> ${is ?? 'not measured'} (-${(fall * 100).toFixed(0)} %)`);
  return 1;
}

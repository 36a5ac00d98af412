// `npm run bench:all [-- --quick | --full] [-- --only peers,http]`
//
// Everything, one part after the other, each with a Redis of its own on a free port; then test/bench/RESULTS.md. With
// `--only` the other parts of that file stay as they were measured last on this machine.
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chooseOnly } from './only.mjs';

const HERE = new URL('./', import.meta.url);
const path = (name) => fileURLToPath(new URL(name, HERE));

/**
 * @typedef {object} Part
 * @property {string} title
 * @property {string} file
 * @property {string[]} [quick] arguments of `--quick`
 * @property {string[]} [normal] of neither
 * @property {string[]} [full] of `--full`
 * @property {string[]} [flags] of Node
 */

const GC = ['--expose-gc'];
/** Of a quick run: each takes ten seconds. */
const HTTP_QUICK = 'express/map,express/ours,express/session,express/ours-write,express/session-write';

/** @type {Record<string, Part>} */
const PARTS = {
  peers: {
    title: 'Beside other packages, plain caches and the least work',
    file: 'peers.mjs',
    flags: GC,
  },
  near: {
    title: 'The near cache, the guard and forged tokens',
    file: 'bench.mjs',
    flags: GC,
    quick: ['--quick', '--only', 'cache,forged'],
    normal: ['--only', 'cache,forged'],
  },
  http: { title: 'HTTP', file: 'http/http.mjs', quick: ['--quick', '--only', HTTP_QUICK] },
  processes: { title: 'Many processes', file: 'processes.mjs' },
  start: { title: 'Start and size', file: 'start.mjs' },
  heap: {
    title: 'Memory of the near cache',
    file: 'bench.mjs',
    flags: GC,
    quick: ['--quick', '--only', 'heap'],
    normal: ['--only', 'heap'],
  },
  memory: {
    title: 'Memory in Redis, of other caches, and after a day',
    file: 'memory.mjs',
    full: ['--full'],
  },
};

const { values: options } = parseArgs({
  options: { quick: { type: 'boolean' }, full: { type: 'boolean' }, only: { type: 'string' } },
});
const names = chooseOnly(options.only, Object.keys(PARTS));
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));

const began = performance.now();
await install();
mkdirSync(path('.results'), { recursive: true });
const failed = [];
for (const name of names) {
  const partBegan = performance.now();
  console.log(`\n=== ${PARTS[name].title} (${name}, at ${seconds(began)})\n`);
  const { code, output } = await run(PARTS[name]);
  // What failed half way is no result.
  if (code === 0) writeFileSync(path(`.results/${name}.txt`), output);
  else failed.push(name);
  console.log(`--- ${name}: ${seconds(partBegan)}${code === 0 ? '' : `, ended with ${code}`}`);
}
write();
console.log(`\ntest/bench/RESULTS.md is written (${seconds(began)} in all).`);
if (failed.length > 0) {
  console.error(`Failed: ${failed.join(', ')}; what they measured before stands there.`);
  process.exitCode = 1;
}

function seconds(since) {
  return `${((performance.now() - since) / 1_000).toFixed(0)} s`;
}

/** The other packages, unless they are there as the lock file says. */
async function install() {
  const [lock, installed] = [path('peers/package-lock.json'), path('peers/node_modules/.package-lock.json')];
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return;
  const { code } = await start('npm', ['ci', '--no-audit', '--no-fund', '--prefer-offline'], path('peers'));
  if (code !== 0) throw new Error(`npm ci in test/bench/peers ended with ${code}`);
}

function run({ file, flags = [], quick = ['--quick'], normal = [], full = normal }) {
  const args = options.quick ? quick : options.full ? full : normal;
  return start(process.execPath, [...flags, path(file), ...args]);
}

/** Shows what it prints, and keeps it. */
function start(command, args, cwd = path('../..')) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'inherit'] });
    const kill = () => child.kill('SIGTERM');
    process.once('exit', kill);
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text;
      process.stdout.write(text);
    });
    child.once('error', reject);
    child.once('close', (code) => {
      process.off('exit', kill);
      resolve({ code, output });
    });
  });
}

function write() {
  const sections = Object.entries(PARTS).flatMap(([name, { title }]) => {
    const file = path(`.results/${name}.txt`);
    if (!existsSync(file)) return [];
    return [`## ${title}\n\n\`\`\`text\n${readFileSync(file, 'utf8').trim()}\n\`\`\`\n`];
  });
  const text = [
    '# Results of the benchmarks\n',
    'Written by `npm run bench:all`; not by hand. Each part begins with its date, machine and versions.',
    'Ratios are of operations per second, and of medians of interleaved rounds (A B A B …), with the quartiles of the single',
    "rounds' ratios beside them. Compare ratios, never absolute times, with those of another machine or another day.\n",
    ...sections,
  ];
  writeFileSync(path('RESULTS.md'), text.join('\n'));
}

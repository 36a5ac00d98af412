// `npm run bench:start [-- --quick] [-- --json file]`
//
// What the package costs before the first request: milliseconds and memory of the import and of `forRoot()` over a Nest
// app without it, each in a process of its own, in turn; what is installed with it, and what is published.
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { printFigures } from './figures.mjs';
import { check } from './kit.mjs';
import { quantile } from './rounds.mjs';

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const KINDS = ['bare', 'imported', 'memory', 'redis'];
/** An app on Express with the memory store needs none of these. */
const UNUSED = [
  'ioredis',
  'redis',
  'fastify',
  '@nestjs/platform-fastify',
  'lmdb',
  '@nestjs/terminus',
  'msgpackr',
];

const { values: options } = parseArgs({ options: { quick: { type: 'boolean' }, json: { type: 'string' } } });
const rounds = options.quick ? 3 : 15;

await printFigures(options, async (env) => {
  await measureStart(env);
  await measureSizes(env);
});

async function measureStart({ url, figures }) {
  const samples = Object.fromEntries(KINDS.map((kind) => [kind, []]));
  for (let round = -1; round < rounds; round++) {
    for (const kind of KINDS) {
      const sample = await start(kind, url);
      if (round >= 0) samples[kind].push(sample); // the first fills the file system's cache
    }
  }
  const of = (kind, key) => samples[kind].map((sample) => sample[key]);
  const median = (kind, key) => quantile(of(kind, key), 0.5);
  const over = (kind, base, key) => median(kind, key) - median(base, key);
  const ms = (value) => `${value.toFixed(1)} ms`;
  const mib = (value) => `${(value / 2 ** 20).toFixed(1)} MiB`;
  const imports = KINDS.slice(1).flatMap((kind) => of(kind, 'importMs'));
  const memory = (kind, base) =>
    `RSS ${mib(over(kind, base, 'rss'))}, heap ${mib(over(kind, base, 'heapUsed'))}`;
  figures.push(
    {
      title: 'a Nest app on Express without the package: imports, start',
      value: `${ms(median('bare', 'nestMs'))}, ${ms(median('bare', 'bootMs'))}; RSS ${mib(median('bare', 'rss'))}`,
    },
    {
      title: "import 'nestjs-sessionkit', beside Nest",
      value: `${ms(quantile(imports, 0.5))} (quartiles ${ms(quantile(imports, 0.25))}-${ms(quantile(imports, 0.75))}); ${memory('imported', 'bare')}`,
    },
    {
      title: 'forRoot({}), memory store, over an app without it',
      value: `${ms(over('memory', 'imported', 'bootMs'))}; ${memory('memory', 'imported')}`,
    },
    {
      title: 'forRoot({ redis }), over an app without it',
      value: `${ms(over('redis', 'imported', 'bootMs'))}; ${memory('redis', 'imported')} (ioredis included)`,
    },
  );
  const [{ packages: bare }, { packages: loaded }] = [samples.bare[0], samples.memory[0]];
  check(bare.express > 0, 'what a process has loaded is told');
  const unused = UNUSED.filter((name) => loaded[name] !== undefined);
  const added = Object.keys(loaded).filter((name) => bare[name] === undefined);
  figures.push(
    { title: 'loaded with it on Express with the memory store', value: added.toSorted().join(', ') },
    {
      title: '… of what that app does not use',
      value: unused.join(', ') || 'nothing',
      aim: 'nothing',
      reached: unused.length === 0,
    },
  );
}

async function start(kind, url) {
  const worker = fileURLToPath(new URL('start-worker.mjs', import.meta.url));
  const { stdout } = await run(process.execPath, ['--expose-gc', worker, kind, url], {
    env: { ...process.env, NODE_ENV: 'development' },
  });
  return JSON.parse(stdout);
}

async function measureSizes({ figures }) {
  const folder = mkdtempSync(join(tmpdir(), 'sessionkit-bench-pack-'));
  try {
    const packing = await run('npm', ['pack', '--json', '--silent', '--pack-destination', folder], {
      cwd: ROOT,
    });
    const [{ filename, size, unpackedSize, entryCount }] = JSON.parse(packing.stdout);
    const kib = (bytes) => `${(bytes / 1024).toFixed(0)} KiB`;
    figures.push({
      title: 'published',
      value: `${kib(size)} packed, ${kib(unpackedSize)} in ${entryCount} files`,
    });
    writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
    const quiet = ['--no-audit', '--no-fund', '--silent', '--prefer-offline'];
    // Peers are the app's own: it has Nest, and ioredis where it uses Redis.
    await run('npm', ['install', '--omit=peer', '--legacy-peer-deps', ...quiet, join(folder, filename)], {
      cwd: folder,
    });
    const modules = join(folder, 'node_modules');
    const names = readdirSync(modules).filter((name) => !name.startsWith('.'));
    check(names.includes('nestjs-sessionkit'), 'the package was installed');
    figures.push({
      title: 'installed, without peers',
      value: `${kib(sizeOf(modules))} in ${names.length} packages (${names.join(', ')})`,
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function sizeOf(folder) {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  return files.reduce(
    (sum, entry) => sum + statSync(join(entry.parentPath ?? entry.path, entry.name)).size,
    0,
  );
}

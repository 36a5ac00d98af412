// What is printed: where it ran, the table of ratios, the table of commands.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { cpus, loadavg, platform, release, totalmem } from 'node:os';
import { dirname, join } from 'node:path';

const require = createRequire(import.meta.url);

export async function environment(client, { own }) {
  const server = await client.info('server');
  const redis = /^(?:valkey_version|redis_version):(\S+)/m.exec(server)?.[1] ?? 'unknown';
  const processors = cpus();
  const machine = {
    date: new Date().toISOString(),
    processor: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `${platform()} ${release()}`,
    load: loadavg()[0],
    node: process.version,
    redis,
    ioredis: versionOf('ioredis'),
    nest: versionOf('@nestjs/core'),
    sessionkit: versionOf('nestjs-sessionkit'),
  };
  const { processor, cores, memoryGiB, system, load } = machine;
  return {
    facts: machine,
    lines: [
      `${machine.date}  ${processor}, ${cores} cores, ${memoryGiB} GiB, ${system}, load ${load.toFixed(1)}`,
      `nestjs-sessionkit ${machine.sessionkit}, Node ${machine.node}, Nest ${machine.nest}, ioredis ${machine.ioredis}, ` +
        `Redis ${redis} (${own ? 'started here' : 'REDIS_URL'})`,
      ...(load > cores / 2 ? ['The machine is busy: trust the ratios, not the operations per second.'] : []),
      ...(globalThis.gc ? [] : ['No --expose-gc: garbage of one sample is collected in the next.']),
    ],
  };
}

/**
 * Versions of packages as a file of `folder` would find them.
 *
 * @param {string[]} names
 * @param {URL} folder
 */
export function versionsOf(names, folder) {
  const found = Object.fromEntries(names.map((name) => [name, versionOf(name, createRequire(folder))]));
  const line = Object.entries(found).map(([name, version]) => `${name} ${version}`);
  return { found, line: line.join(', ') };
}

/** By file, not through `exports`: not every package lists its package.json there. */
function versionOf(name, from = require) {
  const paths = from.resolve.paths(name) ?? [];
  const own = join(dirname(new URL(import.meta.url).pathname), '..', '..', 'package.json');
  for (const file of [...paths.map((path) => join(path, name, 'package.json')), own]) {
    try {
      const { name: found, version } = JSON.parse(readFileSync(file, 'utf8'));
      if (found === name) return version;
    } catch {
      // not in this folder: look in the next
    }
  }
  return 'unknown';
}

export function formatRows(results) {
  const header = [
    'operation',
    'conc.',
    'ops/s',
    'µs',
    'against',
    'ops/s',
    'µs',
    'ratio',
    'quartiles',
    'aim',
    '',
  ];
  const rows = results.map((row) => [
    row.title,
    row.sync ? '-' : String(row.concurrency),
    count(row.ours.opsPerSecond),
    time(row.ours.usPerOp),
    row.against,
    count(row.base.opsPerSecond),
    time(row.base.usPerOp),
    row.ratio.toFixed(2),
    `${row.low.toFixed(2)}-${row.high.toFixed(2)}`,
    row.aim === undefined ? '' : `>= ${row.aim.toFixed(2)}`,
    row.aim === undefined ? '' : row.ratio >= row.aim ? 'reached' : 'NOT REACHED',
  ]);
  return [
    `Ratio of the medians of ${results[0]?.rounds ?? 0} interleaved rounds; quartiles of the single rounds' ratios; µs = time per operation.`,
    table([header, ...rows], new Set([0, 4, 10])),
  ].join('\n');
}

/** One race: every side's operations per second, and its ratio to the first's; the best other package beside ours. */
export function formatRace({ title, concurrency, sync, aim, rounds, rows }, ours) {
  const header = ['', 'ops/s', 'µs', 'CPU µs', 'ratio', 'quartiles', 'by CPU', 'aim', ''];
  const cells = rows.map((row) => {
    const wanted = row.name === ours && aim !== undefined;
    return [
      row.name,
      count(row.opsPerSecond),
      time(row.usPerOp),
      time(row.cpuUsPerOp),
      row.ratio.toFixed(2),
      `${row.low.toFixed(2)}-${row.high.toFixed(2)}`,
      row.byCpu.toFixed(2),
      wanted ? `>= ${aim.toFixed(2)}` : '',
      wanted ? (row.ratio >= aim ? 'reached' : 'NOT REACHED') : '',
    ];
  });
  const where = sync ? 'no await' : `concurrency ${concurrency}`;
  return [
    `${title}; ${where}; medians of ${rounds} rounds, ratios of operations per second to ${rows[0].name}`,
    table([header, ...cells], new Set([0, 8])),
  ].join('\n');
}

/** @param {import('./measurements.mjs').Figure[]} figures */
export function formatFigures(figures) {
  const rows = figures.map(({ title, value, aim = '', reached }) => [
    title,
    value,
    aim,
    reached === undefined ? '' : reached ? 'reached' : 'NOT REACHED',
  ]);
  return table([['measured', 'value', 'aim', ''], ...rows], new Set([0, 1, 3]));
}

export function formatCommands(results) {
  const asked = results.filter((row) => row.commands !== undefined);
  if (asked.length === 0) return 'Nothing asked Redis.';
  const header = [
    'operation',
    'round trips',
    'server µs',
    'CPU µs',
    'baseline: server µs',
    'CPU µs',
    'commands',
  ];
  const rows = asked.map(({ title, commands, ours, base }) => [
    title,
    roundTrips(commands.ours).toFixed(2),
    serverTime(commands.ours).toFixed(1),
    ours.cpuUsPerOp.toFixed(1),
    serverTime(commands.base).toFixed(1),
    base.cpuUsPerOp.toFixed(1),
    listCommands(commands.ours),
  ]);
  return [
    "Per operation at concurrency 64: from INFO commandstats, and this process's CPU time.",
    table([header, ...rows], new Set([0, 6])),
  ].join('\n');
}

const SCRIPTS = ['evalsha', 'eval', 'fcall'];

/** With scripts the other commands are theirs: every operation here is either scripts only or plain commands only. */
function roundTrips(commands) {
  const scripts = SCRIPTS.reduce((sum, name) => sum + (commands[name]?.calls ?? 0), 0);
  return scripts > 0 ? scripts : Object.values(commands).reduce((sum, { calls }) => sum + calls, 0);
}

/** The time of a script includes the commands it runs. */
function serverTime(commands) {
  const scripts = SCRIPTS.filter((name) => commands[name] !== undefined);
  const counted = scripts.length > 0 ? scripts : Object.keys(commands);
  return counted.reduce((sum, name) => sum + commands[name].usec, 0);
}

function listCommands(commands) {
  const order = ([a], [b]) => Number(SCRIPTS.includes(b)) - Number(SCRIPTS.includes(a)) || a.localeCompare(b);
  return Object.entries(commands)
    .toSorted(order)
    .map(([name, { calls }]) => (calls === 1 ? name : `${name}×${calls.toFixed(2)}`))
    .join(' ');
}

/** Columns of text; `leftAligned` holds the numbers of those that are not figures. */
export function table(rows, leftAligned) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) =>
          leftAligned.has(column) ? cell.padEnd(widths[column]) : cell.padStart(widths[column]),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

const count = (value) => Math.round(value).toLocaleString('en-GB');
const time = (us) => (us < 10 ? us.toFixed(3) : us.toFixed(1));

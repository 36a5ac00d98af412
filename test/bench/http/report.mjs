// What is printed: ratios first, then requests per second, then Redis commands.
import { readFileSync } from 'node:fs';
import { formatFigures } from '../report.mjs';
import { quantile } from '../rounds.mjs';
import { RATIOS } from './contenders.mjs';

const PACKAGES = [
  'express',
  'express-session',
  'fastify',
  '@fastify/session',
  '@fastify/cookie',
  'connect-redis',
  'redis',
  'autocannon',
];
/** Of a core; a process that takes as much is what limits the requests per second. */
const BUSY = 0.97;
/** Less than this of commands a request is none: one throttled touch of each session would be 0.01. */
const NO_COMMANDS = 0.0005;

export function versions() {
  return Object.fromEntries(
    PACKAGES.map((name) => {
      const file = new URL(`../../../node_modules/${name}/package.json`, import.meta.url);
      return [name, JSON.parse(readFileSync(file, 'utf8')).version];
    }),
  );
}

/** Medians of a contender's rounds, and the least and most of them. */
export function summarize({ contender, rounds, commands, coldReads }) {
  const of = (key) => rounds.map((round) => round[key]);
  const middle = (key) => quantile(of(key), 0.5);
  return {
    ...contender,
    perSecond: middle('perSecond'),
    least: Math.min(...of('perSecond')),
    most: Math.max(...of('perSecond')),
    cpuUs: middle('cpuUs'),
    p50: middle('p50'),
    p99: middle('p99'),
    serverBusy: middle('serverBusy'),
    loadBusy: middle('loadBusy'),
    commands,
    coldReads,
    rounds,
  };
}

/**
 * Of those pairs both of which were measured: the ratio of the medians of requests per second, the quartiles of the
 * single rounds' ratios, and what the ratio would be by the servers' CPU time per request.
 */
export function ratiosOf(results) {
  const byName = new Map(results.map((result) => [result.name, result]));
  return RATIOS.flatMap(({ title, aim, ...names }) => {
    const [ours, base] = [byName.get(names.ours), byName.get(names.base)];
    if (ours === undefined || base === undefined) return [];
    const single = ours.rounds.map((round, index) => round.perSecond / base.rounds[index].perSecond);
    return [
      {
        title,
        aim,
        ratio: ours.perSecond / base.perSecond,
        low: quantile(single, 0.25),
        high: quantile(single, 0.75),
        byCpu: base.cpuUs / ours.cpuUs,
      },
    ];
  });
}

export function formatRatios(ratios) {
  return formatFigures(
    ratios.map(({ title, aim, ratio, low, high, byCpu }) => ({
      title,
      value: `${ratio.toFixed(2)}  quartiles ${low.toFixed(2)}-${high.toFixed(2)}, by server CPU ${byCpu.toFixed(2)}`,
      ...(aim !== undefined && { aim: `>= ${aim.toFixed(2)}`, reached: ratio >= aim }),
    })),
  );
}

export function formatRates(results) {
  const rows = results.map((row) => [
    row.name,
    count(row.perSecond),
    `${count(row.least)}-${count(row.most)}`,
    row.cpuUs.toFixed(1),
    row.p50.toFixed(1),
    row.p99.toFixed(1),
    percent(row.serverBusy),
    percent(row.loadBusy),
    row.title,
  ]);
  const header = [
    'GET /me',
    'req/s',
    'min-max',
    'server CPU µs/req',
    'p50 ms',
    'p99',
    'server busy',
    'load busy',
    '',
  ];
  const limited = results.filter((row) => row.loadBusy > BUSY).map(({ name }) => name);
  const note =
    `The load process, not the server, limited ${limited.join(', ')}: ` +
    'their ratios are nearer to 1 than the servers are; see those by server CPU.';
  return [table([header, ...rows], new Set([0, 8])), ...(limited.length === 0 ? [] : [note])].join('\n');
}

export function formatCommands(results) {
  return formatFigures(
    results.map(({ name, commands, noCommands }) => {
      const entries = Object.entries(commands);
      const total = entries.reduce((sum, [, calls]) => sum + calls, 0);
      const list = entries.map(([command, calls]) => `${command}×${calls.toFixed(3)}`).join(' ');
      return {
        title: `${name}, Redis commands a request`,
        value: list || '0',
        ...(noCommands && { aim: '0', reached: total < NO_COMMANDS }),
      };
    }),
  );
}

/** What requests read that come at once and find nothing held: all with one token, and each with its own. */
export function formatColdReads(results) {
  return formatFigures(
    results
      .filter(({ coldReads }) => coldReads !== undefined)
      .flatMap(({ name, kind, coldReads: { ofOne, ofEach } }) => {
        const aim = (most, reads) => kind === 'ours' && { aim: `<= ${most}`, reached: reads <= most };
        return [
          {
            title: `${name}, reads for 64 at once of one cold token`,
            value: String(ofOne),
            ...aim(1, ofOne),
          },
          { title: `${name}, … of 64 cold tokens`, value: String(ofEach), ...aim(64, ofEach) },
        ];
      }),
  );
}

function table(rows, leftAligned) {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const pad = (cell, column) =>
    leftAligned.has(column) ? cell.padEnd(widths[column]) : cell.padStart(widths[column]);
  return rows.map((row) => row.map(pad).join('  ').trimEnd()).join('\n');
}

const count = (value) => Math.round(value).toLocaleString('en-GB');
const percent = (share) => `${Math.round(share * 100)} %`;

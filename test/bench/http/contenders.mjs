// Who is measured, and which of them stand beside each other. Every one serves the same `GET /me`.

/**
 * @typedef {object} Contender
 * @property {string} name for `--only`: `platform/kind`
 * @property {'express' | 'fastify'} platform
 * @property {string} kind what `apps.mjs` builds
 * @property {string} title
 * @property {boolean} writes answers with a number that it adds one to in the session, instead of a field of it
 * @property {boolean} noCommands aims at asking Redis nothing
 * @property {boolean} cold the reads of requests that find nothing held are counted
 * @property {number} [bytes] of session data; 220 unless given
 */

/** In the order of asking: those that stand beside each other, next to each other. */
const KINDS = {
  bare: { title: () => 'no guard, no session' },
  map: { title: () => 'guard with one Map lookup' },
  ours: { title: () => 'SessionGuard and @Session()', noCommands: true, cold: true },
  session: { title: (platform) => SESSION_PACKAGES[platform], cold: true },
  'session-fixed': { title: (platform) => `${SESSION_PACKAGES[platform]}, rolling: false`, only: 'fastify' },
  'ours-unguarded': { title: () => '@Session() only', noCommands: true },
  'ours-write': { title: () => 'SessionGuard and @Session(), one field written', writes: true },
  'session-write': {
    title: (platform) => `${SESSION_PACKAGES[platform]}, one field written`,
    writes: true,
  },
  ...sized('1k', 1_024),
  ...sized('16k', 16_384),
};

/** The same over more data; `of` is the kind whose app it is. */
function sized(suffix, bytes) {
  const ours = { title: () => `SessionGuard and @Session(), ${bytes} bytes of data`, noCommands: true };
  const session = { title: (platform) => `${SESSION_PACKAGES[platform]}, ${bytes} bytes of data` };
  return {
    [`ours-${suffix}`]: { ...ours, of: 'ours', bytes },
    [`session-${suffix}`]: { ...session, of: 'session', bytes },
  };
}

const SESSION_PACKAGES = { express: 'express-session', fastify: '@fastify/session' };

/** @type {Contender[]} */
export const CONTENDERS = ['express', 'fastify'].flatMap((platform) =>
  Object.entries(KINDS)
    .filter(([, { only = platform }]) => only === platform)
    .map(([name, { title, of: kind = name, writes = false, noCommands = false, cold = false, bytes }]) => ({
      name: `${platform}/${name}`,
      platform,
      kind,
      title: title(platform),
      writes,
      noCommands,
      cold,
      bytes,
    })),
);

/**
 * The first over the second, by requests per second. `aim`: least ratio wanted; absent: for information.
 *
 * @type {{ ours: string, base: string, title: string, aim?: number }[]}
 */
export const RATIOS = [
  ratio('express', 'ours', 'map', 0.95),
  ratio('fastify', 'ours', 'map', 0.95),
  ratio('express', 'ours', 'session', 1.9),
  ratio('fastify', 'ours', 'session', 4),
  ratio('express', 'ours', 'bare'),
  ratio('fastify', 'ours', 'bare'),
  ratio('express', 'map', 'bare'),
  ratio('fastify', 'map', 'bare'),
  ratio('express', 'map', 'session'), // what could be reached at most
  ratio('fastify', 'map', 'session'),
  ratio('express', 'ours-unguarded', 'ours'),
  ratio('fastify', 'ours-unguarded', 'ours'),
  ratio('fastify', 'ours', 'session-fixed'),
  ratio('express', 'ours-write', 'session-write', 2),
  ratio('fastify', 'ours-write', 'session-write'),
  ...['express', 'fastify'].flatMap((platform) =>
    ['1k', '16k'].flatMap((size) => [
      ratio(platform, `ours-${size}`, `session-${size}`),
      ratio(platform, `ours-${size}`, 'ours'),
    ]),
  ),
];

function ratio(platform, ours, base, aim) {
  const names = { ours: `${platform}/${ours}`, base: `${platform}/${base}` };
  return { ...names, title: `${names.ours} : ${base}`, ...(aim !== undefined && { aim }) };
}

/** The contenders that `--only` names: by platform, kind, or both; throws for a name that means none. */
export function choose(only) {
  const parts = only?.split(',') ?? CONTENDERS.map(({ name }) => name);
  const means = (part, { name, platform }) => [name, platform, name.split('/')[1]].includes(part);
  const unknown = parts.find((part) => !CONTENDERS.some((contender) => means(part, contender)));
  if (unknown !== undefined) {
    const known = ['express', 'fastify', ...Object.keys(KINDS), 'express/ours'];
    throw new Error(`--only: "${unknown}" is not known. Known: ${known.join(', ')}, …`);
  }
  return CONTENDERS.filter((contender) => parts.some((part) => means(part, contender)));
}

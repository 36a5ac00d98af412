// Who is measured, and which of them stand beside each other. Every one serves the same `GET /me`.

/**
 * @typedef {object} Contender
 * @property {string} name for `--only`: `platform/kind`
 * @property {'express' | 'fastify'} platform
 * @property {string} kind what `apps.mjs` builds
 * @property {string} title
 * @property {boolean} writes answers with a number that it adds one to in the session, instead of a field of it
 * @property {boolean} noCommands aims at asking Redis nothing
 */

/** In the order of asking: those that stand beside each other, next to each other. */
const KINDS = {
  bare: { title: () => 'no guard, no session' },
  map: { title: () => 'guard with one Map lookup' },
  ours: { title: () => 'SessionGuard and @Session()', noCommands: true },
  session: { title: (platform) => SESSION_PACKAGES[platform] },
  'session-fixed': { title: (platform) => `${SESSION_PACKAGES[platform]}, rolling: false`, only: 'fastify' },
  'ours-unguarded': { title: () => '@Session() only', noCommands: true },
  'ours-write': { title: () => 'SessionGuard and @Session(), one field written', writes: true },
  'session-write': {
    title: (platform) => `${SESSION_PACKAGES[platform]}, one field written`,
    writes: true,
  },
};

const SESSION_PACKAGES = { express: 'express-session', fastify: '@fastify/session' };

/** @type {Contender[]} */
export const CONTENDERS = ['express', 'fastify'].flatMap((platform) =>
  Object.entries(KINDS)
    .filter(([, { only = platform }]) => only === platform)
    .map(([kind, { title, writes = false, noCommands = false }]) => ({
      name: `${platform}/${kind}`,
      platform,
      kind,
      title: title(platform),
      writes,
      noCommands,
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
  ratio('express', 'ours-write', 'session-write'),
  ratio('fastify', 'ours-write', 'session-write'),
];

function ratio(platform, ours, base, aim) {
  const names = { ours: `${platform}/${ours}`, base: `${platform}/${base}` };
  return { ...names, title: `${names.ours} : ${base}`, ...(aim !== undefined && { aim }) };
}

/** The contenders that `--only` names: by platform, kind, or both; throws for a name that means none. */
export function choose(only) {
  const parts = only?.split(',') ?? CONTENDERS.map(({ name }) => name);
  const means = (part, { name, platform, kind }) => [name, platform, kind].includes(part);
  const unknown = parts.find((part) => !CONTENDERS.some((contender) => means(part, contender)));
  if (unknown !== undefined) {
    const known = ['express', 'fastify', ...Object.keys(KINDS), 'express/ours'];
    throw new Error(`--only: "${unknown}" is not known. Known: ${known.join(', ')}, …`);
  }
  return CONTENDERS.filter((contender) => parts.some((part) => means(part, contender)));
}

import { SessionOptionsError } from '../errors/caller.errors.js';
import { checkBoolean, checkDuration, checkGroup, checkKeys, checkString, shown } from './option-checks.js';
import { DEFAULTS, LIMITS } from './session-options.defaults.js';
import type {
  CookieKeys,
  ResolvedCookieOptions,
  ResolvedSessionOptions,
  SessionCookieOptions,
  SessionModuleOptions,
  TransportOption,
} from './session-options.interface.js';

/** RFC 6265 cookie-name and RFC 9110 field-name are the same production: token. */
const HTTP_TOKEN = /^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$/;

export function resolveTransport(input: SessionModuleOptions['transport']): readonly TransportOption[] {
  const list: readonly unknown[] =
    input === undefined ? DEFAULTS.transport : Array.isArray(input) ? input : [input];
  if (list.length === 0) {
    throw new SessionOptionsError(
      'transport',
      "must name at least one; got an empty array. Write e.g. ['cookie'].",
    );
  }
  return Object.freeze(
    list.map((item): TransportOption => {
      if (item === 'cookie' || item === 'bearer') return item;
      if (typeof item === 'object' && item !== null && 'header' in item) {
        checkKeys('transport.', item, ['header']);
        const { header: name } = item;
        // There is no default: an unset environment variable would switch this transport off in silence.
        if (name === undefined) {
          throw new SessionOptionsError(
            'transport.header',
            'must be a header name; got undefined. Write e.g. "x-auth-token".',
          );
        }
        const header = checkString('transport.header', name, 'x-auth-token', HTTP_TOKEN, 'a header name');
        return Object.freeze({ header: header.toLowerCase() });
      }
      if (typeof item === 'object' && item !== null && 'read' in item) return checkTransport(item);
      throw new SessionOptionsError(
        'transport',
        `must be 'cookie', 'bearer', { header: 'x-auth-token' } or a TokenTransport, or an array of these; got ${shown(item)}. Write e.g. ['cookie', 'bearer'].`,
      );
    }),
  );
}

function checkTransport(item: object): TransportOption {
  for (const [name, wanted] of [
    ['read', true],
    ['write', false],
    ['clear', false],
  ] as const) {
    const method: unknown = (item as Record<string, unknown>)[name];
    if (typeof method === 'function' || (method === undefined && !wanted)) continue;
    throw new SessionOptionsError(
      `transport.${name}`,
      `must be a function; got ${shown(method)}. See the interface TokenTransport.`,
    );
  }
  return item as TransportOption;
}

const KNOWN_COOKIE: readonly (keyof SessionCookieOptions)[] = [
  'name',
  'secure',
  'sameSite',
  'httpOnly',
  'path',
  'domain',
  'maxAge',
  'partitioned',
  'secrets',
];

export function resolveCookie(input: SessionModuleOptions['cookie']): ResolvedCookieOptions {
  const cookie = checkGroup('cookie', input, KNOWN_COOKIE);
  const { secure: wanted = DEFAULTS.cookie.secure, sameSite = DEFAULTS.cookie.sameSite } = cookie;
  if (wanted !== 'auto' && typeof wanted !== 'boolean') {
    throw new SessionOptionsError(
      'cookie.secure',
      `must be true, false or 'auto'; got ${shown(wanted)}. Environment variables are strings: compare them with 'true'.`,
    );
  }
  if (!['lax', 'strict', 'none'].includes(sameSite)) {
    throw new SessionOptionsError(
      'cookie.sameSite',
      `must be 'lax', 'strict' or 'none'; got ${shown(sameSite)}. Write e.g. 'lax'.`,
    );
  }
  const secure = wanted === 'auto' ? process.env.NODE_ENV === 'production' : wanted;
  const path = checkString(
    'cookie.path',
    cookie.path,
    DEFAULTS.cookie.path,
    /^\/[\x21-\x3a\x3c-\x7e]*$/,
    "a URL path that begins with '/'",
  );
  const domain =
    cookie.domain === undefined
      ? undefined
      : checkString(
          'cookie.domain',
          cookie.domain,
          'example.com',
          /^\.?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$/,
          'a domain name',
        );
  const partitioned = checkBoolean('cookie.partitioned', cookie.partitioned, DEFAULTS.cookie.partitioned);
  const prefix = !secure ? '' : domain === undefined && path === '/' ? '__Host-' : '__Secure-';
  const name = checkString(
    'cookie.name',
    cookie.name,
    `${prefix}sid`,
    HTTP_TOKEN,
    'a cookie name (letters, digits, _ and -)',
  );
  // Browsers drop a cookie that breaks one of these, without a word to the server.
  const rules: readonly (readonly [broken: boolean, option: string, why: string])[] = [
    [
      /^__host-/i.test(name) && domain !== undefined,
      'cookie.domain',
      `is ${shown(domain)}, but a cookie named "${name}" may have none. Drop one of both.`,
    ],
    [
      /^__host-/i.test(name) && path !== '/',
      'cookie.path',
      `is ${shown(path)}, but a cookie named "${name}" needs '/'. Drop one of both.`,
    ],
    [
      /^__(host|secure)-/i.test(name) && !secure,
      'cookie.secure',
      `is ${shown(wanted)}, but a cookie named "${name}" needs a secure one. Set secure: true, or choose a name without the prefix.`,
    ],
    [
      sameSite === 'none' && !secure,
      'cookie.sameSite',
      "is 'none', which browsers take from secure cookies only. Set cookie.secure: true.",
    ],
    [partitioned && !secure, 'cookie.partitioned', 'needs a secure cookie. Set cookie.secure: true.'],
  ];
  for (const [broken, option, why] of rules) if (broken) throw new SessionOptionsError(option, why);
  return Object.freeze({
    name,
    secure,
    sameSite,
    httpOnly: checkBoolean('cookie.httpOnly', cookie.httpOnly, DEFAULTS.cookie.httpOnly),
    path,
    domain,
    maxAgeMs:
      cookie.maxAge === undefined
        ? undefined
        : checkDuration('cookie.maxAge', cookie.maxAge, 0, { min: 1_000, max: LIMITS.cookieMaxAge }),
    partitioned,
    secrets: resolveSecrets(cookie.secrets),
    decided: wanted === 'auto',
  });
}

/** Never shows a value. */
function resolveSecrets(input: SessionCookieOptions['secrets']): ResolvedCookieOptions['secrets'] {
  if (isKeys(input)) return input;
  const secrets: readonly unknown[] = input === undefined ? [] : Array.isArray(input) ? input : [input];
  if (input !== undefined && secrets.length === 0) {
    throw new SessionOptionsError(
      'cookie.secrets',
      'must hold at least one; got an empty array. Drop it to leave the cookie unsigned.',
    );
  }
  for (const secret of secrets) {
    if (typeof secret === 'string' && secret.length >= LIMITS.secretLength) continue;
    throw new SessionOptionsError(
      'cookie.secrets',
      `must be strings of at least ${LIMITS.secretLength} characters; got ${typeof secret === 'string' ? `one of ${secret.length}` : typeof secret}. ` +
        'Make one with: openssl rand -base64 32',
    );
  }
  return Object.freeze([...(secrets as string[])]);
}

function isKeys(input: SessionCookieOptions['secrets']): input is CookieKeys {
  if (typeof input !== 'object' || input === null || !('sign' in input)) return false;
  if (typeof input.sign === 'function' && typeof input.verify === 'function') return true;
  throw new SessionOptionsError(
    'cookie.secrets',
    'has sign but not both methods, sign and verify. Pass an instance of Keygrip, or strings.',
  );
}

export function resolveCsrf(
  input: SessionModuleOptions['csrf'] = DEFAULTS.csrf,
): ResolvedSessionOptions['csrf'] {
  if (input === false) return false;
  if (input === true) return Object.freeze({ strict: false, allowedOrigins: [] });
  if (input === 'strict') return Object.freeze({ strict: true, allowedOrigins: [] });
  const csrf = checkGroup('csrf', input, ['strict', 'allowedOrigins']);
  const allowedOrigins: readonly unknown[] = csrf.allowedOrigins ?? [];
  if (!Array.isArray(allowedOrigins))
    throw new SessionOptionsError(
      'csrf.allowedOrigins',
      `must be an array; got ${shown(allowedOrigins)}. Write ['https://app.example.com'].`,
    );
  for (const origin of allowedOrigins as readonly unknown[]) {
    if (typeof origin === 'string' && URL.canParse(origin) && new URL(origin).origin === origin) continue;
    throw new SessionOptionsError(
      'csrf.allowedOrigins',
      `must hold origins; got ${shown(origin)}. Write scheme, host and port only, e.g. 'https://app.example.com'.`,
    );
  }
  return Object.freeze({
    strict: checkBoolean('csrf.strict', csrf.strict, false),
    allowedOrigins: Object.freeze([...(allowedOrigins as string[])]),
  });
}

export function resolveExpressView(
  input: SessionModuleOptions,
): Pick<ResolvedSessionOptions, 'expressView' | 'userIdFrom'> {
  const expressView = checkBoolean('expressView', input.expressView, DEFAULTS.expressView);
  const { userIdFrom } = input;
  if (userIdFrom !== undefined && typeof userIdFrom !== 'function') {
    throw new SessionOptionsError(
      'userIdFrom',
      `must be a function; got ${shown(userIdFrom)}. Write (data) => data.passport?.user.`,
    );
  }
  if (userIdFrom !== undefined && !expressView) {
    throw new SessionOptionsError(
      'userIdFrom',
      "needs expressView: true. Without it, sessions become a user's by SessionService.login(session, userId).",
    );
  }
  return { expressView, userIdFrom };
}

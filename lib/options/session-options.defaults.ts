/** Every default of the module options, in one place. Durations are milliseconds. */
export const DEFAULTS = {
  keyPrefix: 'sk:',
  idleTimeout: 30 * 60_000,
  absoluteTimeout: 14 * 86_400_000,
  /** Where half of `idleTimeout` is less, that half is the default. */
  touchInterval: 60_000,
  rotateGrace: 0,
  partitions: 16,
  index: { users: true, activity: true },
  allowGivenTokens: false,
  maxDataBytes: 256 * 1024,
  commandTimeout: 1_000,
  onStoreUnavailable: 'deny',
  staleFor: 30_000,
  waitForReplicas: 0,
  captureMetadata: true,
  onLimit: 'evict-oldest',
  sweepInterval: 5_000,
  cache: {
    maxEntries: 10_000,
    maxBytes: 0,
    ttlRatio: 1,
    maxAge: 60_000,
    idleCheckInterval: 0,
    idleCheckPerCount: 30,
    reportInterval: 0,
  },
  /** Where a quarter of `leaseMs` is less than `heartbeatMs`, that quarter is the default. */
  coherence: { leaseMs: 2_000, heartbeatMs: 500 },
  transport: ['cookie', 'bearer'],
  cookie: { secure: 'auto', sameSite: 'lax', httpOnly: true, path: '/', partitioned: false },
  csrf: true,
  expressView: false,
} as const;

/**
 * Upper bounds. The first two come from the record's fixed-width header: 11 digits of idle timeout and 13 digits of
 * deadline (the year 2286); a Node timer holds at most 2^31-1 ms.
 */
export const LIMITS = {
  idleTimeout: 1_000 * 86_400_000,
  absoluteTimeout: 36_500 * 86_400_000,
  commandTimeout: 60_000,
  staleFor: { min: 1_000, max: 600_000 },
  rotateEvery: { min: 60_000, max: 36_500 * 86_400_000 },
  rotateGrace: 60_000,
  sweepInterval: { min: 100, max: 3_600_000 },
  maxAge: 86_400_000,
  /** Places of an LRU are set aside at once: 16 million take some 600 MB. */
  entries: 2 ** 24,
  leaseMs: { min: 100, max: 60_000 },
  heartbeatMs: 10,
  /** A Node timer holds at most this. */
  interval: 2 ** 31 - 1,
  idleCheckPerCount: 1_000_000,
  waitForReplicas: 100,
  maxDataBytes: 64 * 1024 * 1024,
  keyPrefixLength: 64,
  /** RFC 6265bis: browsers cut a cookie's life at 400 days. */
  cookieMaxAge: 400 * 86_400_000,
  /** Characters of a signing secret: HMAC-SHA-256 wants 256 bits. */
  secretLength: 32,
  /** A partition number is one byte of the token. */
  partitions: 256,
} as const;

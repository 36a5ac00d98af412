// Values that a store must give back as they went in.
import type { SessionMetadata } from '../index.js';

/** UserIds that must come back as they went in. */
export const ODD_USER_IDS = [
  'ann',
  'Ann Ö. Smith',
  ' leading and trailing ',
  '{0}:s:{x}',
  '100%',
  '%41%zz',
  'a:b:c',
  '用户-😀-👩‍👩‍👧',
  '__proto__',
  "it's (a) *test*!~",
  'line\nbreak\ttab\0nul',
  'x'.repeat(255),
  '😀'.repeat(127),
];

/** Encoded data that must come back as it went in. */
export const ODD_DATA = [
  '{}',
  '{"a":"line\\nbreak"}',
  'raw\nnew\r\nlines\n\n',
  '\n',
  'nul \0 in the middle',
  'pair 😀 and umlaut ä and 漢字',
  '1 0000000000000001 looks like a header',
  'M looks like a mark',
  '',
  JSON.stringify({ lone: '\ud800' }),
  JSON.stringify({ big: 'ä'.repeat(100_000) }),
];

/** Metadata that must come back as it went in; never more than the module itself lets through. */
export const ODD_METADATA: readonly SessionMetadata[] = [
  {},
  { ip: '', userAgent: '', label: '' },
  { label: 'Ann’s "phone" \\ \'desk\'', userAgent: 'a\nb\r\nc\td\0e' },
  { ip: '2001:db8::1%eth0', label: '用户-😀-👩‍👩‍👧' },
  { ip: 'x'.repeat(64), userAgent: 'ü'.repeat(512), label: '😀'.repeat(64) },
  { authenticatedAt: 0, rotatedAt: 1_700_000_000_123 },
  { label: '__proto__', authenticatedAt: 9_007_199_254_740_991 },
];

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { SessionRecord } from '../../../lib/core/session-record.interface.js';
import {
  newNonce,
  decodeUserId,
  encodeUserId,
  formatTail,
  formatVersion,
  parseRecord,
} from '../../../lib/store/redis-record.js';
import { ODD_DATA, ODD_USER_IDS } from '../../../lib/testing/odd-values.js';

const ID = 'AAAAAAAAAAAAAAAAAAAAAAA';
const NONCE = 'nonce-7';
const pad = (value: number, width: number) => String(value).padStart(width, '0');

/** The text as the scripts write it: header, creation time, tail. */
function textOf(record: SessionRecord): string {
  const { version, lastAccess, idleTimeout, absoluteDeadline, createdAt } = record;
  const times = `${pad(lastAccess, 13)} ${pad(idleTimeout, 11)} ${pad(absoluteDeadline, 13)}`;
  const tail = formatTail(encodeUserId(record.userId), record.metadata, record.data);
  return `1 ${formatVersion(version)} ${NONCE} ${times} ${pad(createdAt, 13)} ${tail}`;
}

const time = fc.integer({ min: 0, max: 9_999_999_999_999 });
const userId = fc.oneof(
  fc.constant(null),
  fc.constantFrom(...ODD_USER_IDS),
  fc.string({ unit: 'grapheme', minLength: 1 }),
);
const record: fc.Arbitrary<SessionRecord> = fc.record(
  {
    id: fc.constant(ID),
    userId,
    version: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
    createdAt: time,
    lastAccess: time,
    idleTimeout: fc.integer({ min: 0, max: 99_999_999_999 }),
    absoluteDeadline: time,
    metadata: fc.record(
      { ip: fc.string(), userAgent: fc.string({ unit: 'binary' }), label: fc.string() },
      { requiredKeys: [], noNullPrototype: true },
    ),
    data: fc.oneof(fc.constantFrom(...ODD_DATA), fc.string({ unit: 'binary' })),
  },
  { noNullPrototype: true },
);

describe('redis-record', () => {
  it('newNonce() gives 7 characters of base64url, and 5,000 of them are all different', () => {
    const nonces = Array.from({ length: 5_000 }, newNonce);
    for (const nonce of nonces) expect(nonce).toMatch(/^[\w-]{7}$/);
    expect(new Set(nonces).size).toBe(5_000);
  });

  it('parseRecord() reads back what the scripts write, whatever userId, metadata and data hold', () => {
    fc.assert(
      fc.property(record, (wanted) => {
        expect(parseRecord(ID, textOf(wanted))).toStrictEqual(wanted);
      }),
      { numRuns: 1_000 },
    );
  });

  it('the header is ASCII of fixed width, so that scripts find everything by bytes', () => {
    fc.assert(
      fc.property(record, (wanted) => {
        const text = textOf(wanted);
        expect(text.slice(0, 81)).toMatch(/^1 \d{16} [\w-]{7} \d{13} \d{11} \d{13} \d{13} $/);
        expect(text.slice(81, text.indexOf('\n'))).toMatch(/^[\x21-\x7e]* /);
      }),
    );
  });

  it('parseRecord() of any text is a record with finite numbers, or null; it never throws', () => {
    const whole = record.map(textOf);
    const cut = fc.tuple(whole, fc.nat(200)).map(([text, at]) => text.slice(0, at));
    const bent = fc
      .tuple(whole, fc.nat(120), fc.string({ unit: 'binary', maxLength: 3 }))
      .map(([text, at, put]) => text.slice(0, at) + put + text.slice(at + 1));
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), cut, bent), (text) => {
        const parsed = parseRecord(ID, text);
        if (parsed === null) return;
        expect(parsed.id).toBe(ID);
        const { version, createdAt, lastAccess, idleTimeout, absoluteDeadline } = parsed;
        expect(
          [version, createdAt, lastAccess, idleTimeout, absoluteDeadline].every((n) => Number.isFinite(n)),
        ).toBe(true);
        expect(typeof parsed.metadata).toBe('object');
        expect(typeof parsed.data).toBe('string');
      }),
      { numRuns: 2_000 },
    );
  });

  it.each([
    ['empty text', ''],
    ['another layout', `2${'0'.repeat(200)}`],
    ['a mark of a moved session', `M ${NONCE} 1 0000`],
    ['a header alone', `1 ${'0'.repeat(16)} ${NONCE} ${'0'.repeat(13)} ${'0'.repeat(11)} ${'0'.repeat(13)} `],
  ])('parseRecord() of %s is null', (_, text) => {
    expect(parseRecord(ID, text)).toBeNull();
  });

  it('metadata read back is frozen', () => {
    const [one] = fc.sample(record, { numRuns: 1, seed: 1 }) as [SessionRecord];
    for (const metadata of [{}, { ip: '::1' }])
      expect(Object.isFrozen(parseRecord(ID, textOf({ ...one, metadata }))?.metadata)).toBe(true);
  });

  it('encodeUserId() gives every user another name, of characters that are safe in keys', () => {
    fc.assert(
      fc.property(userId, userId, (a, b) => {
        expect(decodeUserId(encodeUserId(a))).toBe(a);
        expect(encodeUserId(a)).toMatch(/^[^\s{}:\u007f-\uffff]*$/);
        expect(encodeUserId(a) === encodeUserId(b)).toBe(a === b);
      }),
    );
  });

  it('formatVersion() is 16 digits, so that versions compare as texts', () => {
    expect(formatVersion(1)).toBe('0000000000000001');
    expect(formatVersion(Number.MAX_SAFE_INTEGER)).toBe('9007199254740991');
  });
});

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  formatInvalidation,
  parseInvalidation,
  type InvalidationMessage,
} from '../../../lib/pubsub/invalidation-message.js';

const ID = 'DfI9bRmUZJk9DuTzftTEGlU';
const GOOD: InvalidationMessage = {
  operation: 'update',
  id: ID,
  version: 1_700_000_000_000_000,
  origin: 'a.b:c~1-_',
};
const TEXT = formatInvalidation(GOOD);

const message: fc.Arbitrary<InvalidationMessage> = fc.record({
  operation: fc.constantFrom('update', 'destroy'),
  id: fc.stringMatching(/^[A-Za-z0-9_-]{23}$/),
  version: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
  origin: fc.stringMatching(/^[A-Za-z0-9._:~-]{1,64}$/),
});

describe('invalidation messages', () => {
  it('parseInvalidation(formatInvalidation(m)) is m, the longest possible included', () => {
    fc.assert(
      fc.property(message, (wanted) => {
        expect(parseInvalidation(formatInvalidation(wanted))).toEqual(wanted);
      }),
    );
    const longest = { ...GOOD, operation: 'destroy', version: 9e15, origin: 'o'.repeat(64) } as const;
    expect(parseInvalidation(formatInvalidation(longest))).toEqual(longest);
  });

  it.each<[string, unknown]>([
    ['nothing', ''],
    ['undefined', undefined],
    ['null', null],
    ['a number', 5],
    ['a buffer', Buffer.from(TEXT)],
    ['an array', [TEXT]],
    ['an object', { operation: 'destroy' }],
    ['another operation', TEXT.replace('update', 'delete')],
    ['upper case', TEXT.toUpperCase()],
    ['no origin', TEXT.slice(0, TEXT.lastIndexOf(' '))],
    ['no version', `destroy ${ID} here`],
    ['a negative version', `update ${ID} -1 here`],
    ['a version of 17 digits', `update ${ID} 12345678901234567 here`],
    ['a version with an exponent', `update ${ID} 1e9 here`],
    ['a short id', TEXT.replace(ID, ID.slice(1))],
    ['a long id', TEXT.replace(ID, `${ID}A`)],
    ['a token in the place of the id', TEXT.replace(ID, 'A'.repeat(44))],
    ['an id with a foreign character', TEXT.replace(ID, ID.replace('D', '*'))],
    ['an origin with a space', `${TEXT} x`],
    ['an origin of 65 characters', `update ${ID} 1 ${'o'.repeat(65)}`],
    ['two spaces', TEXT.replace(' ', '  ')],
    ['a line end', `${TEXT}\n`],
    ['a leading space', ` ${TEXT}`],
    ['two messages', `${TEXT}\n${TEXT}`],
    ['10 MB', 'update '.repeat(1_500_000)],
    ['JSON', JSON.stringify(GOOD)],
  ])('parseInvalidation() of %s is null', (_, text) => {
    expect(parseInvalidation(text)).toBeNull();
  });

  it('parseInvalidation() of anything is a message of known form or null, and never throws', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.anything(),
          fc.string().map((text) => `update ${text}`),
        ),
        (value) => {
          const parsed = parseInvalidation(value);
          if (parsed !== null) expect(formatInvalidation(parsed).split(' ')).toHaveLength(4);
        },
      ),
    );
  });
});

import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  generateToken,
  identifyToken,
  isGivenToken,
  partitionOfId,
  partitionOfUser,
  randomPartition,
} from '../../../lib/core/session-token.js';

const bytesOf = (text: string) => Buffer.from(text, 'base64url');
const given = fc.stringMatching(/^[A-Za-z0-9._~-]{16,128}$/);

describe('generateToken', () => {
  it('makes 44 characters: the partition byte and 256 bits', () => {
    for (const partition of [0, 1, 15, 62, 63, 64, 127, 128, 255]) {
      const token = generateToken(partition);
      expect(token).toMatch(/^[A-Za-z0-9_-]{44}$/);
      expect(bytesOf(token)).toHaveLength(33);
      expect(bytesOf(token)[0]).toBe(partition);
      expect(bytesOf(token).toString('base64url')).toBe(token);
    }
  });

  it('never repeats itself, and every one of the 256 random bits takes both values', () => {
    const ones = Array.from({ length: 256 }, () => 0);
    const tokens = new Set<string>();
    const count = 2_000;
    for (let i = 0; i < count; i++) {
      const token = generateToken(3);
      tokens.add(token);
      const bytes = bytesOf(token).subarray(1);
      for (let bit = 0; bit < 256; bit++) ones[bit]! += (bytes[bit >> 3]! >> (bit & 7)) & 1;
    }
    expect(tokens.size).toBe(count);
    // 2,000 fair throws: 8 standard deviations are 179; less than one failure in 10^12 runs.
    expect(ones.every((n) => Math.abs(n - count / 2) < 179)).toBe(true);
  });
});

describe('identifyToken', () => {
  it('the id is 23 characters: the partition byte and the first 16 bytes of SHA-256 of the token', () => {
    for (const partition of [0, 7, 64, 200, 255]) {
      const token = generateToken(partition);
      const identity = identifyToken(token, 256, false);
      const digest = createHash('sha256').update(token).digest();
      const id = Buffer.concat([Buffer.from([partition]), digest.subarray(0, 16)]).toString('base64url');
      expect(identity).toEqual({ id, partition, given: false });
      expect(id).toHaveLength(23);
      expect(partitionOfId(id, 256)).toBe(partition);
    }
  });

  it('a partition byte of the deployment is accepted, one out of range is null', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 255 }),
        fc.integer({ min: 1, max: 256 }),
        (partition, partitions) => {
          const token = generateToken(partition);
          expect(identifyToken(token, partitions, false)?.partition).toBe(
            partition < partitions ? partition : undefined,
          );
          // Turning given tokens on must not open a second door to it.
          if (partition >= partitions) expect(identifyToken(token, partitions, true)).toBeNull();
        },
      ),
    );
  });

  const token = generateToken(2);
  const id = identifyToken(token, 16, false)!.id;
  it.each<[string, unknown]>([
    ['an empty string', ''],
    ['a real id', id],
    ['43 characters', token.slice(1)],
    ['45 characters', `${token}A`],
    ['10 MB', 'A'.repeat(10 * 1024 * 1024)],
    ['padding', `${token.slice(0, 43)}=`],
    ['standard base64', `${token.slice(0, 42)}+/`],
    ['NUL', `${token.slice(0, 43)}\0`],
    ['NUL at the end', `${token}\0`],
    ['a line end', `${token}\n`],
    ['a space in front', ` ${token}`],
    ['full-width letters', 'Ａ'.repeat(44)],
    ['a partition out of range', generateToken(16)],
    ['the last partition byte', generateToken(255)],
    ['a number', 5],
    ['null', null],
    ['undefined', undefined],
    ['true', true],
    ['an array with a token', [token]],
    ['an object', { token }],
    ['an object that turns into a token', { toString: () => token, length: 44 }],
    ['a String object', Object(token)],
    ['a buffer', Buffer.from(token)],
    ['a symbol', Symbol('token')],
    ['a function', () => token],
  ])('%s is null', (_, value) => {
    expect(identifyToken(value, 16, false)).toBeNull();
    if (typeof value !== 'string') expect(identifyToken(value, 16, true)).toBeNull();
  });

  it('anything but a token of our form is null and nothing throws', () => {
    const near = fc
      .tuple(fc.nat(43), fc.string({ unit: 'binary', minLength: 1, maxLength: 2 }))
      .map(([at, put]) => token.slice(0, at) + put + token.slice(at + 1));
    fc.assert(
      fc.property(
        fc.oneof(
          fc.anything({ withBigInt: true, withNullPrototype: true }),
          fc.string({ unit: 'binary' }),
          near,
        ),
        (value) => {
          const identity = identifyToken(value, 16, false);
          const ours =
            typeof value === 'string' && /^[A-Za-z0-9_-]{44}$/.test(value) && bytesOf(value)[0]! < 16;
          expect(identity === null).toBe(!ours);
        },
      ),
      { numRuns: 2_000 },
    );
  });

  it('ids of different tokens differ, and do not contain the token', () => {
    const ids = new Set<string>();
    for (let i = 0; i < 500; i++) {
      const one = generateToken(0);
      const { id: name } = identifyToken(one, 16, false)!;
      ids.add(name);
      expect(name.slice(2)).not.toBe(one.slice(2, 23));
    }
    expect(ids.size).toBe(500);
  });
});

describe('given tokens', () => {
  it('are null unless allowed', () => {
    fc.assert(
      fc.property(
        given.filter((text) => !/^[\w-]{44}$/.test(text)),
        (text) => {
          expect(identifyToken(text, 16, false)).toBeNull();
          expect(identifyToken(text, 16, true)).toMatchObject({ given: true });
          expect(isGivenToken(text)).toBe(true);
        },
      ),
    );
  });

  it('are hashed in a domain of their own: no id of one is the id of a generated token', () => {
    const text = 'order-confirmation.42';
    const { id, partition } = identifyToken(text, 16, true)!;
    const plain = createHash('sha256').update(text).digest();
    const ours = createHash('sha256').update(`given\0${text}`).digest();
    expect(bytesOf(id).subarray(1)).toEqual(ours.subarray(0, 16));
    expect(bytesOf(id).subarray(1)).not.toEqual(plain.subarray(0, 16));
    expect(bytesOf(id)[0]).toBe(partition);
    expect(partitionOfId(id, 16)).toBe(partition);
  });

  it('spread over all partitions', () => {
    const found = new Set(
      Array.from({ length: 500 }, (_, i) => identifyToken(`given-token-no-${i}`, 16, true)!.partition),
    );
    expect(found.size).toBe(16);
  });

  it.each([
    ['15 characters', 'x'.repeat(15)],
    ['129 characters', 'x'.repeat(129)],
    ['10 MB', 'x'.repeat(10 * 1024 * 1024)],
    ['a slash', 'x'.repeat(20) + '/'],
    ['a space', 'x'.repeat(20) + ' '],
    ['NUL', 'x'.repeat(20) + '\0'],
    ['a line end', 'x'.repeat(20) + '\n'],
    ['an umlaut', 'x'.repeat(20) + 'ä'],
  ])('%s is none', (_, text) => {
    expect(isGivenToken(text)).toBe(false);
    expect(identifyToken(text, 16, true)).toBeNull();
  });

  it('the form of a generated token cannot be given, whatever its partition', () => {
    for (const partition of [0, 15, 16, 255]) expect(isGivenToken(generateToken(partition))).toBe(false);
    for (const value of [undefined, null, 5, ['x'.repeat(20)]]) expect(isGivenToken(value)).toBe(false);
  });
});

describe('partitions', () => {
  it('partitionOfUser() is stable, in range, and uses them all', () => {
    const found = new Set<number>();
    for (let i = 0; i < 500; i++) {
      const partition = partitionOfUser(`user-${i}`, 16);
      expect(partition).toBe(partitionOfUser(`user-${i}`, 16));
      found.add(partition);
    }
    expect([...found].sort((a, b) => a - b)).toEqual(Array.from({ length: 16 }, (_, i) => i));
  });

  it('partitionOfUser() never changes between versions: stored indexes rely on it', () => {
    for (let i = 0; i < 100; i++) {
      const digest = createHash('sha256').update(`user\0ann-${i}`).digest();
      for (const partitions of [1, 3, 16, 100, 256])
        expect(partitionOfUser(`ann-${i}`, partitions)).toBe(digest.readUInt32BE(0) % partitions);
    }
  });

  it('randomPartition() is in range and uses them all', () => {
    for (const partitions of [1, 3, 16, 256]) {
      const found = new Set(Array.from({ length: 20 * partitions }, () => randomPartition(partitions)));
      expect(Math.max(...found)).toBeLessThan(partitions);
      expect(found.size).toBeGreaterThan(partitions * 0.95);
    }
  });

  it('partitionOfId() is null for what cannot be an id', () => {
    for (const value of ['', 'A'.repeat(22), 'A'.repeat(24), 'A'.repeat(22) + '*', null, 5, ['A'.repeat(23)]])
      expect(partitionOfId(value, 16)).toBeNull();
    expect(partitionOfId('A'.repeat(23), 16)).toBe(0);
    expect(partitionOfId(`_${'A'.repeat(22)}`, 16)).toBeNull();
  });
});

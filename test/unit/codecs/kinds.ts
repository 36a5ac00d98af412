import { Packr } from 'msgpackr';
import { compressed, encrypted, type SessionCodec } from '../../../lib/codecs/index.js';
import { defaultCodec } from '../../../lib/index.js';

export const KEY = 'ab12'.repeat(16);
export const OTHER_KEY = Buffer.from('cd34'.repeat(16), 'hex').toString('base64');

/** A new one each time, as another process has it. */
export const packr = () => new Packr({ structuredClone: true });

export const KINDS: readonly (readonly [name: string, make: () => SessionCodec])[] = [
  ['default', () => defaultCodec],
  ['msgpackr', packr as unknown as () => SessionCodec],
  ['encrypted(default)', () => encrypted(defaultCodec, { keys: [KEY] })],
  ['encrypted(msgpackr)', () => encrypted(packr(), { keys: [KEY] })],
  ['compressed(default)', () => compressed(defaultCodec, { above: 64 })],
  ['compressed(msgpackr)', () => compressed(packr(), { above: 0 })],
  [
    'encrypted(compressed(default))',
    () => encrypted(compressed(defaultCodec, { above: 0 }), { keys: [KEY] }),
  ],
  [
    'compressed(encrypted(default))',
    () => compressed(encrypted(defaultCodec, { keys: [KEY] }), { above: 0 }),
  ],
  ['encrypted(compressed(msgpackr))', () => encrypted(compressed(packr(), { above: 64 }), { keys: [KEY] })],
];

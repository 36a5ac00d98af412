export { compressed, type CompressedOptions } from './compressed.js';
export { encrypted, type EncryptedOptions, type EncryptionKey } from './encrypted.js';
export { firstOf } from './first-of.js';
export { defaultCodec } from '../index.js';
export type { SessionCodec, SessionCodecContext, SimpleCodec } from '../index.js';

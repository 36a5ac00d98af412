// Sessions on this machine's disk (`lmdb`), without a server.
export { DiskSessionStore, type DiskSessionStoreOptions } from './disk-session.store.js';

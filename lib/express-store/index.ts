// Any express-session store as ours
export { fromExpressStore, type FromExpressStoreOptions } from './from-express-store.js';
export type { ExpressStore } from './foreign-store.js';

// Ours as a store of express-session and @fastify/session
export { toExpressStore, type ToExpressStoreOptions } from './to-express-store.js';
export { ExpressSessionStore } from './express-session-store.js';

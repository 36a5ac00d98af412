// Asks Redis PING every 2 ms, in a process of its own: how long the server is deaf to everybody else.
import { Redis } from 'ioredis';
import { serve } from '../support/worker-rpc.mjs';

const EVERY_MS = 2;

let client;
let timer;
let longest = 0;
let pings = 0;
/** Replies come in the order of the pings: one that waits behind others waits for the same. */
let waiting = [];

serve({
  async open(url) {
    client = new Redis(url);
    await client.ping();
    timer = setInterval(() => {
      const sent = performance.now();
      const answered = client.ping().then(() => {
        longest = Math.max(longest, performance.now() - sent);
        pings++;
      });
      waiting.push(answered);
    }, EVERY_MS);
  },
  begin() {
    longest = 0;
    pings = 0;
    waiting = [];
  },
  /** What was measured since `begin`, in ms. */
  async end() {
    await Promise.all(waiting);
    return { longest, pings };
  },
  close() {
    clearInterval(timer);
    client.disconnect();
  },
});

// What process-worker.mjs does with the least of work: a value is set and announced in one step, and whoever hears of it
// reads it again. Plain ioredis, no library.
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { serve } from '../support/worker-rpc.mjs';
import { makeData } from './kit.mjs';

const now = () => Number(process.hrtime.bigint()) / 1e6;

let commands;
let subscriber;
let channel;
let held;
let heardAt = [];

serve({
  async open(url, { keyPrefix }) {
    channel = `${keyPrefix}inv`;
    commands = new Redis(url);
    subscriber = new Redis(url);
    subscriber.on('message', () => {
      heardAt.push(now());
      if (held !== undefined) setImmediate(() => held !== undefined && void commands.get(held));
    });
    await subscriber.subscribe(channel);
  },
  async hold(key) {
    heardAt = [];
    held = key;
    await commands.get(key);
  },
  release() {
    held = undefined;
  },
  heard: () => heardAt,
  async write(key, count, everyMs) {
    const times = [];
    for (let index = 0; index < count; index++) {
      const text = JSON.stringify(makeData());
      const calledAt = now();
      await commands.multi().publish(channel, key).set(key, text, 'EX', 1_800).exec();
      times.push({ calledAt, answeredAt: now() });
      await delay(everyMs);
    }
    return times;
  },
  async close() {
    await Promise.all([commands.quit(), subscriber.quit()]);
  },
});

// What the scripts share that measure figures, not ratios, on a Redis of their own.
import { writeFileSync } from 'node:fs';
import { Redis } from 'ioredis';
import { openRedis } from './redis.mjs';
import { environment, formatFigures } from './report.mjs';

/**
 * Says where it runs, lets `work` add its figures, and prints them, also those from before something failed. What `work`
 * resolves to stands in the JSON beside them.
 *
 * @param {{ json?: string | undefined }} options the file to write
 * @param {(env: { url: string, raw: Redis, figures: import('./measurements.mjs').Figure[] }) => Promise<object | void>} work
 */
export async function printFigures({ json }, work) {
  const redis = await openRedis();
  const raw = new Redis(redis.url);
  const figures = [];
  try {
    const { facts, lines } = await environment(raw, redis);
    // It is in the processes measured that garbage is collected, where it matters.
    console.log(lines.filter((line) => !line.startsWith('No --expose-gc')).join('\n'));
    const more = await work({ url: redis.url, raw, figures });
    if (json !== undefined)
      writeFileSync(json, `${JSON.stringify({ machine: facts, ...more, figures }, null, 2)}\n`);
  } finally {
    if (figures.length > 0) console.log(`\n${formatFigures(figures)}`);
    raw.disconnect();
    await redis.stop();
  }
}

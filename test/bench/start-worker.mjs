// A process that starts an app and tells what that took. `node start-worker.mjs bare|imported|memory|redis [url]`
import { loadedPackages } from '../support/loaded-packages.mjs';

const [kind, url] = process.argv.slice(2);
const began = performance.now();
await import('reflect-metadata');
const { NestFactory } = await import('@nestjs/core');
const { ExpressAdapter } = await import('@nestjs/platform-express');
const nestAt = performance.now();
const kit = kind === 'bare' ? undefined : await import('nestjs-sessionkit');
const kitAt = performance.now();

class StartModule {}
const imports = [];
if (kind === 'memory') imports.push(kit.SessionModule.forRoot({}));
if (kind === 'redis') imports.push(kit.SessionModule.forRoot({ redis: url }));
const app = await NestFactory.create({ module: StartModule, imports }, new ExpressAdapter(), {
  logger: ['error'],
  abortOnError: false,
});
await app.listen(0, '127.0.0.1');
const readyAt = performance.now();
for (let round = 0; round < 3; round++) globalThis.gc();
const { rss, heapUsed } = process.memoryUsage();
// After the figures: whoever looks is not counted.
const packages = await loadedPackages();
await app.close();
process.stdout.write(
  JSON.stringify({
    nestMs: nestAt - began,
    importMs: kitAt - nestAt,
    bootMs: readyAt - kitAt,
    rss,
    heapUsed,
    packages,
  }),
);

// require() and import() must hand out one and the same copy: two copies would be two sets of injection tokens.
const assert = require('node:assert/strict');

async function main() {
  assert.throws(
    () => require.resolve('ioredis'),
    { code: 'MODULE_NOT_FOUND' },
    'this leg must run without ioredis',
  );

  const required = require('nestjs-sessionkit');
  const imported = await import('nestjs-sessionkit');
  for (const name of [
    'SessionModule',
    'SessionService',
    'SessionRegistry',
    'SessionGuard',
    'ActiveSession',
  ]) {
    assert.equal(typeof required[name], 'function', `${name} is not exported`);
    assert.equal(required[name], imported[name], `${name} differs between require() and import`);
  }
  assert.deepEqual(
    Object.keys(required)
      .filter((key) => key !== '__esModule')
      .sort(),
    Object.keys(imported).sort(),
  );
  assert.equal(require('nestjs-sessionkit/package.json').name, 'nestjs-sessionkit');

  // Loading index.cjs by path, as Jest does by condition, must work too (it is a copy of its own, for Jest only).
  const bundled = require('./node_modules/nestjs-sessionkit/dist/index.cjs');
  assert.deepEqual(
    Object.keys(bundled)
      .filter((key) => key !== '__esModule')
      .sort(),
    Object.keys(imported).sort(),
    'dist/index.cjs and dist/index.js export different names',
  );
  // Entry points: nothing optional is needed to load them, and their classes are those of the main one, also where Jest
  // loads the bundle.
  const { exports } = require('nestjs-sessionkit/package.json');
  const paths = Object.keys(exports).filter((path) => path !== '.' && path !== './package.json');
  for (const path of paths) {
    const name = `nestjs-sessionkit/${path.slice(2)}`;
    assert.deepEqual(
      Object.keys(require(`./node_modules/nestjs-sessionkit/${exports[path].require}`)).sort(),
      Object.keys(await import(name)).sort(),
      `${name}: require and import export different names`,
    );
    assert.equal(Object.values(require(name))[0], Object.values(await import(name))[0], name);
  }
  const foreign = { get() {}, set() {}, destroy() {} };
  const express = require('./node_modules/nestjs-sessionkit/dist/express-store/index.cjs');
  assert.ok(express.fromExpressStore(foreign) instanceof bundled.SessionStore, 'two copies of SessionStore');
  await assert.rejects(
    () => new (require('nestjs-sessionkit/disk-store').DiskSessionStore)({ path: './s' }).open(),
    /npm install lmdb/,
  );
  console.log(`plain: ${paths.length} more entry points (${paths.join(' ')})`);
  console.log(`plain: require() and import give one copy of ${Object.keys(imported).length} exports`);
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});

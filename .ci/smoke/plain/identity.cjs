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
  console.log(`plain: require() and import give one copy of ${Object.keys(imported).length} exports`);
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});

// dist/*.cjs for require(): all entry points in one bundle, so that each class exists once, and a thin file for each of
// them. Bundled, because require() of this package's ES modules would fail before Node 20.19 and under Jest; what is
// bundled in of others (`devalue`) has no CommonJS of its own.
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const { exports, dependencies, peerDependencies } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));
const entries = Object.values(exports).filter((entry) => typeof entry === 'object');
const packages = Object.keys({ ...dependencies, ...peerDependencies }).filter((name) => name !== 'devalue');

await build({
  stdin: {
    contents: entries.map(({ import: file }, index) => `export * as e${index} from '${file}';`).join('\n'),
    resolveDir: root,
  },
  outfile: `${root}/dist/all.cjs`,
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  logLevel: 'warning',
  supported: { 'dynamic-import': false },
  external: packages.flatMap((name) => [name, `${name}/*`]),
});
for (const [index, entry] of entries.entries()) {
  const depth = entry.require.split('/').length - 3;
  writeFileSync(
    `${root}/${entry.require}`,
    `'use strict';\nmodule.exports = require('./${'../'.repeat(depth)}all.cjs').e${index};\n`,
  );
}

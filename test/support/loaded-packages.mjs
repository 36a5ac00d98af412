// What this process has loaded, ES modules and CommonJS alike: V8 itself is asked.
import { Session } from 'node:inspector';

/** Packages of which a file has been loaded → number of files; this package's own count as `nestjs-sessionkit`. */
export async function loadedPackages() {
  const session = new Session();
  const urls = new Set();
  session.connect();
  session.on('Debugger.scriptParsed', ({ params }) => urls.add(params.url));
  await new Promise((resolve, reject) => {
    session.post('Debugger.enable', (error) => (error ? reject(error) : resolve()));
  });
  session.disconnect();
  const packages = {};
  for (const url of urls) {
    const name = packageOf(url);
    if (name !== undefined) packages[name] = (packages[name] ?? 0) + 1;
  }
  return packages;
}

const OWN = new URL('../../dist/', import.meta.url);

function packageOf(url) {
  const path = url.replaceAll('\\', '/');
  const name = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1];
  if (name !== undefined) return name;
  return path.startsWith(OWN.href) || path.startsWith(OWN.pathname) ? 'nestjs-sessionkit' : undefined;
}

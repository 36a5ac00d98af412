// Sessions in a plain node:http server: the example of generic-session, field by field. Nest only wires the providers.
import 'reflect-metadata';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { HttpSessionService, SessionModule } from 'nestjs-sessionkit';

/** Where the curl lines keep their cookie. */
const JAR = join(tmpdir(), 'sessionkit-plain.jar');

@Module({
  imports: [SessionModule.forRoot({ redis: process.env.REDIS_URL || undefined, cookie: { name: 's' } })],
})
class AppModule {}

const app = await NestFactory.createApplicationContext(AppModule, { logger: ['warn', 'error', 'fatal'] });
const { attachSession } = app.get(HttpSessionService);

const server = createServer((request, response) => {
  const session = attachSession(request, response);
  const [, action, key = '', value] = (request.url ?? '').split('/').map(decodeURIComponent);
  response.writeHead(200, { 'content-type': 'application/json' });
  if (action === 'get') session.get(key, (error, data) => response.end(JSON.stringify(error ? null : data)));
  else if (action === 'set') session.set(key, value, () => response.end(JSON.stringify(value)));
  else if (action === 'all')
    session.getAll((error, data) => response.end(JSON.stringify(error ? null : data)));
  else if (action === 'destroy') session.destroy(() => response.end('"bye"'));
  else response.end('"ERROR"');
});

server.listen(Number(process.env.PORT || 3000), '127.0.0.1', () => {
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  console.log(`
nestjs-sessionkit, sample 03-plain-http: ${url}

  curl -sS -w '\\n' -c ${JAR} ${url}/set/foo/bar
  curl -sS -w '\\n' -b ${JAR} ${url}/get/foo ${url}/all
  curl -sS -w '\\n' -b ${JAR} -c ${JAR} ${url}/destroy
`);
});

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.once(signal, () => {
    server.close(() => void app.close());
    server.closeIdleConnections();
  });
}

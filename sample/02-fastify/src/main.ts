import 'reflect-metadata';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify';
import { AppModule } from './app.module.js';

/** Where the curl lines keep their cookie. */
const JAR = join(tmpdir(), 'sessionkit-fastify.jar');

const app = await NestFactory.create<NestFastifyApplication>(AppModule, new FastifyAdapter(), {
  logger: ['warn', 'error', 'fatal'],
  forceCloseConnections: true,
});
app.enableShutdownHooks();
await app.listen(Number(process.env.PORT || 3000), '127.0.0.1');
const url = await app.getUrl();
console.log(`
nestjs-sessionkit, sample 02-fastify: ${url}

  curl -sS -w '\\n' -c ${JAR} -d name=Ada ${url}/sign-in
  curl -sS -w '\\n' -b ${JAR} ${url}/me ${url}/me
  curl -sS -w '\\n' -b ${JAR} ${url}/devices
  curl -sS -w '\\n' -b ${JAR} -c ${JAR} -X POST ${url}/sign-out
`);

import 'reflect-metadata';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { NextFunction, Request, Response } from 'express';
import { SessionError } from 'nestjs-sessionkit';
import { AppModule } from './app.module.js';

const HOST = '127.0.0.1';
/** Where the curl lines keep their cookie. */
const JAR = join(tmpdir(), 'sessionkit-sample.jar');

async function main(): Promise<void> {
  const port = Number(process.env.PORT || 3000);
  const app = await NestFactory.create<NestExpressApplication>(AppModule, {
    logger: ['warn', 'error', 'fatal'],
    // So that Ctrl+C ends at once, while browsers hold connections open.
    forceCloseConnections: true,
  });
  app.enableShutdownHooks();
  app.disable('x-powered-by');
  app.use(protect);
  try {
    await app.init();
    // Instead of app.listen(), which reports a taken port in its own words first.
    const server = app.getHttpServer().listen(port, HOST);
    await once(server, 'listening');
    welcome(`http://${HOST}:${(server.address() as AddressInfo).port}`);
  } catch (error) {
    await app.close();
    throw error;
  }
}

/** What people see of their account is for them alone: nothing is kept in caches, framed, or run as a script. */
function protect(_request: Request, response: Response, next: NextFunction): void {
  response.set({
    'Cache-Control': 'no-store',
    'Content-Security-Policy':
      "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
  });
  next();
}

function welcome(url: string): void {
  const store = process.env.REDIS_URL
    ? 'Redis: every process on it shares them'
    : 'the memory of this process. REDIS_URL=redis://… npm start keeps them in Redis';
  console.log(`
nestjs-sessionkit, sample 01-basic: ${url}
Sessions are kept in ${store}.

Open it in two browsers, or paste into a shell: sign in, see the views grow, list your sessions.
Whoever signs in as "admin" sees everybody's: ${url}/admin

  curl -sS -w '\\n' -c ${JAR} -d name=Ada ${url}/sign-in
  curl -sS -w '\\n' -b ${JAR} ${url}/me ${url}/me
  curl -sS -w '\\n' -b ${JAR} ${url}/sessions
`);
}

/** One line that says what to do, where we know it. */
function explain(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const port = process.env.PORT || '3000';
  if (code === 'EADDRINUSE') return `Port ${port} is taken. Choose another one: PORT=3001 npm start`;
  if (code === 'EACCES')
    return `Port ${port} is not for ordinary users. Choose one above 1023: PORT=3000 npm start`;
  if (code === 'ERR_SOCKET_BAD_PORT')
    return `PORT is ${port}, which is no port. Give a number: PORT=3001 npm start`;
  if (error instanceof SessionError) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

main().catch((error: unknown) => {
  console.error(explain(error));
  process.exitCode = 1;
});

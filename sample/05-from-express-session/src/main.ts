// From express-session with connect-redis to this package, in two steps and without signing anybody out:
//   STAGE=before  express-session, sessions in connect-redis
//   STAGE=during  express-session, sessions in our store; those still in connect-redis move over as they are used
//   STAGE=after   this package alone; the cookies that browsers have go on working
// Sessions are to outlive the process here, so it needs a Redis: REDIS_URL=redis://127.0.0.1:6379
import 'reflect-metadata';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Module, type DynamicModule } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { RedisStore } from 'connect-redis';
import session from 'express-session';
import { SESSION_STORE, SessionModule, type SessionStore } from 'nestjs-sessionkit';
import { toExpressStore } from 'nestjs-sessionkit/express-store';
import { createClient } from 'redis';
import { AppController } from './app.controller.js';
import { ExpressCookieTransport } from './express-cookie.transport.js';

const JAR = join(tmpdir(), 'sessionkit-migration.jar');
const SECRET = process.env.SESSION_SECRET || 'change me: 32 characters or more';
const url = process.env.REDIS_URL;
const stage = process.env.STAGE || 'during';
if (!url || !/^(before|during|after)$/.test(stage)) {
  console.error('Set REDIS_URL, e.g. to redis://127.0.0.1:6379, and STAGE to before, during or after.');
  process.exit(1);
}

@Module({ controllers: [AppController] })
class AppModule {
  static at(stage: string): DynamicModule {
    const sessions = SessionModule.forRoot({
      redis: url!,
      idleTimeout: '1d',
      allowGivenTokens: true, // the sids of express-session; new sessions get tokens of our own
      transport: new ExpressCookieTransport([SECRET]),
      expressView: stage === 'after',
    });
    return { module: AppModule, imports: stage === 'before' ? [] : [sessions] };
  }
}

const app = await NestFactory.create<NestExpressApplication>(AppModule.at(stage), {
  logger: ['warn', 'error', 'fatal'],
  forceCloseConnections: true,
});
app.enableShutdownHooks();
if (stage !== 'after') {
  const client = createClient({ url });
  client.on('error', (error: Error) => console.error(error.message));
  await client.connect();
  process.once('SIGTERM', () => client.destroy());
  const old = new RedisStore({ client });
  const store =
    stage === 'before' ? old : toExpressStore(app.get<SessionStore>(SESSION_STORE), { fallback: old });
  app.use(session({ store, secret: SECRET, resave: false, saveUninitialized: false }));
}
await app.listen(Number(process.env.PORT || 3000), '127.0.0.1');
console.log(`
nestjs-sessionkit, sample 05-from-express-session, ${stage}: ${await app.getUrl()}

  curl -sS -w '\\n' -b ${JAR} -c ${JAR} ${await app.getUrl()}/count
`);

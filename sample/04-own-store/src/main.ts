// Sessions in a store of your own: file-session.store.ts. Restart it, and everybody is still signed in.
import 'reflect-metadata';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Controller, Get, HttpCode, Module, Post } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ActiveSession, Session, SessionModule } from 'nestjs-sessionkit';
import { FileSessionStore } from './file-session.store.js';

const directory = process.env.SESSION_DIR || join(tmpdir(), 'sessionkit-own-store');
/** Where the curl lines keep their cookie. */
const JAR = join(tmpdir(), 'sessionkit-own-store.jar');

@Controller()
class AppController {
  @Get()
  async count(@Session() session: ActiveSession<{ views?: number }>): Promise<object> {
    // Not `session.data.views++`: of two requests at once, one view would be lost.
    await session.update((latest) => {
      latest.views = (latest.views ?? 0) + 1;
    });
    return { views: session.data.views };
  }

  @Post('forget')
  @HttpCode(204)
  async forget(@Session() session: ActiveSession): Promise<void> {
    await session.destroy();
  }
}

@Module({
  imports: [SessionModule.forRoot({ store: new FileSessionStore(directory) })],
  controllers: [AppController],
})
class AppModule {}

const app = await NestFactory.create(AppModule, { logger: ['warn', 'error', 'fatal'] });
app.enableShutdownHooks();
await app.listen(Number(process.env.PORT || 3000), '127.0.0.1');
const url = await app.getUrl();
console.log(`
nestjs-sessionkit, sample 04-own-store: ${url}, sessions in ${directory}

  curl -sS -w '\\n' -c ${JAR} ${url}
  curl -sS -w '\\n' -b ${JAR} ${url}
  curl -sS -w '\\n' -b ${JAR} -c ${JAR} -X POST ${url}/forget
`);

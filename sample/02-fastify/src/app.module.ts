import { Module } from '@nestjs/common';
import { APP_GUARD } from '@nestjs/core';
import { SessionGuard, SessionModule } from 'nestjs-sessionkit';
import { AppController } from './app.controller.js';

@Module({
  imports: [SessionModule.forRoot({ redis: process.env.REDIS_URL || undefined })],
  controllers: [AppController],
  // Every route needs a session, but those that say otherwise.
  providers: [{ provide: APP_GUARD, useExisting: SessionGuard }],
})
export class AppModule {}

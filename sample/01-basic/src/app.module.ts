import { Module } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { SessionModule } from 'nestjs-sessionkit';
import { AppController, COOKIE_NAME } from './app.controller.js';
import { SessionErrorsFilter } from './session-errors.filter.js';

@Module({
  imports: [
    // Without REDIS_URL: the embedded memory store, for this process alone. Requests may carry their token in the
    // cookie or as `Authorization: Bearer …`: that is the default.
    SessionModule.forRoot({ redis: process.env.REDIS_URL || undefined, cookie: { name: COOKIE_NAME } }),
  ],
  controllers: [AppController],
  providers: [{ provide: APP_FILTER, useClass: SessionErrorsFilter }],
})
export class AppModule {}

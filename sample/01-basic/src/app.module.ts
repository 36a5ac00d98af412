import { Module } from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { SessionModule } from 'nestjs-sessionkit';
import { AdminController } from './admin.controller.js';
import { AppController } from './app.controller.js';
import { SessionErrorsFilter } from './session-errors.filter.js';

@Module({
  imports: [
    // Without REDIS_URL: the embedded memory store, for this process alone. The cookie is the package's own: HttpOnly,
    // SameSite=Lax, until the browser is closed; `sid` here, and a Secure `__Host-sid` under NODE_ENV=production. Clients
    // without cookies may send `Authorization: Bearer …`: that is the default too.
    SessionModule.forRoot({ redis: process.env.REDIS_URL || undefined }),
  ],
  controllers: [AppController, AdminController],
  providers: [{ provide: APP_FILTER, useClass: SessionErrorsFilter }],
})
export class AppModule {}

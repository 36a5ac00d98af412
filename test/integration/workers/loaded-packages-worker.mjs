// A small app of the built package on Express; tells what the process has loaded by then. See ../loaded-packages.integration-spec.ts.
import 'reflect-metadata';
import { Controller, Get, Module, UseGuards } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { Session, SessionGuard, SessionModule, SessionService } from 'nestjs-sessionkit';
import { loadedPackages } from '../../support/loaded-packages.mjs';
import { serve } from '../../support/worker-rpc.mjs';

class AppController {
  name(name) {
    return { name };
  }
}
Controller()(AppController);
const { prototype } = AppController;
const method = Object.getOwnPropertyDescriptor(prototype, 'name');
for (const decorate of [Get('name'), UseGuards(SessionGuard)]) decorate(prototype, 'name', method);
Session('name')(prototype, 'name', 0);

let app;
let token;

serve({
  async boot(options) {
    class AppModule {}
    Module({ imports: [SessionModule.forRoot(options)], controllers: [AppController] })(AppModule);
    app = await NestFactory.create(AppModule, new ExpressAdapter(), {
      logger: ['error', 'fatal'],
      abortOnError: false,
      forceCloseConnections: true,
    });
    await app.listen(0, '127.0.0.1');
    ({ token } = await app.get(SessionService).create({ name: 'Ada' }));
  },
  /** Resolves to what a signed-in client is answered. */
  async ask() {
    const { port } = app.getHttpServer().address();
    const headers = { authorization: `Bearer ${token}` };
    const response = await fetch(`http://127.0.0.1:${port}/name`, { headers });
    return response.json();
  },
  loaded: async () => Object.keys(await loadedPackages()),
  close: () => app.close(),
});

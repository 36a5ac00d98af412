// A Nest app on the embedded memory store, with ioredis not installed at all.
import 'reflect-metadata';
import assert from 'node:assert/strict';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { SessionModule, SessionService } from 'nestjs-sessionkit';

class AppModule {}
Module({ imports: [SessionModule.forRoot({})] })(AppModule);

const app = await NestFactory.createApplicationContext(AppModule, {
  logger: ['error', 'warn'],
  abortOnError: false,
});
const sessions = app.get(SessionService);

const created = await sessions.create({ views: 1 }, { userId: 'ann' });
assert.match(created.token, /^[\w-]+$/);
const read = await sessions.get(created.token);
assert.equal(read?.userId, 'ann');
assert.deepEqual(read?.data, { views: 1 });
await sessions.update(created.token, { views: 2 });
assert.deepEqual((await sessions.get(created.token))?.data, { views: 2 });
assert.equal(await sessions.destroy(created.token), true);
assert.equal(await sessions.get(created.token), null);
await app.close();
console.log('plain: create, get, update, destroy on the memory store, without ioredis');

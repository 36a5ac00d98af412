// Stores that cannot do everything: what needs more stops the boot, and what is dangerous is said.
import 'reflect-metadata';
import { Logger, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  MemorySessionStore,
  SessionModule,
  SessionRegistry,
  SessionService,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { WrappedStore } from './support/wrapped-store.js';

class NoIndexStore extends WrappedStore {
  constructor() {
    super({ index: false });
  }
}

class BareStore extends WrappedStore {
  override readonly capabilities = {};
}

async function boot(options: SessionModuleOptions) {
  const warn = vi.spyOn(Logger.prototype, 'warn').mockImplementation(() => undefined);
  @Module({ imports: [SessionModule.forRoot(options)] })
  class AppModule {}
  const app = await NestFactory.createApplicationContext(AppModule, { logger: false, abortOnError: false });
  onTestFinished(() => app.close());
  const warnings = warn.mock.calls.map(([message]) => String(message));
  return { app, warnings };
}

describe('SessionModule with a store that lacks a capability', () => {
  it.each([
    ['maxSessionsPerUser', { maxSessionsPerUser: 3 }, 'index', new NoIndexStore()],
    ['maxSessionsPerUser', { maxSessionsPerUser: 1 }, 'index', new BareStore()],
    ['rotateEvery', { rotateEvery: '1h' }, 'aliases', new BareStore()],
  ] as const)(
    '%s stops the boot, with the names of option, store and capability',
    async (option, options, capability, store) => {
      const error: unknown = await boot({ store, ...options }).then(
        () => 'it booted',
        (reason: unknown) => reason,
      );
      expect(error).toMatchObject({ name: 'SessionOptionsError', code: 'SESSION_OPTIONS', option });
      for (const part of [option, store.constructor.name, `capabilities.${capability}`])
        expect((error as Error).message).toContain(part);
      expect(store.calls.open).toBe(0);
    },
  );

  it('without those options it boots, and keeps sessions', async () => {
    const { app } = await boot({ store: new BareStore() });
    const sessions = app.get(SessionService);
    const { token } = await sessions.create({ n: 1 }, { userId: 'ann' });
    expect((await sessions.get(token))?.userId).toBe('ann');
  });

  it('what the registry does by user is an error that names the store, and nothing else is', async () => {
    const { app } = await boot({ store: new NoIndexStore() });
    const { id } = await app.get(SessionService).create({}, { userId: 'ann' });
    const registry = app.get(SessionRegistry);
    for (const call of [
      () => registry.getUserSessions('ann'),
      () => registry.killUser('ann'),
      () => registry.countForUser('ann'),
      () => registry.getOldestUserSession('ann'),
    ])
      await expect(call()).rejects.toMatchObject({
        name: 'SessionArgumentError',
        argument: 'store',
        message: expect.stringContaining('NoIndexStore'),
      });
    expect(await registry.exists(id)).toBe(true);
    expect(await registry.kill(id)).toBe(true);
  });

  it('one without versions warns that two processes may lose writes, and names the store', async () => {
    const { warnings } = await boot({ store: new BareStore() });
    const [warning, ...more] = warnings.filter((text) => text.includes('capabilities.versions'));
    expect(more).toEqual([]);
    expect(warning).toMatch(/^BareStore .*two processes may lose writes/);
  });

  it.each([
    ['versions', { versions: true }],
    ['no versions but no other writer', { versions: false, exclusive: true }],
  ])('one with %s does not warn', async (_, capabilities) => {
    const { warnings } = await boot({ store: new WrappedStore(capabilities) });
    expect(warnings).toEqual([]);
  });

  it('the memory store lacks nothing', async () => {
    const options = { maxSessionsPerUser: 3, rotateEvery: '1h' } as const;
    const { warnings } = await boot({ store: new MemorySessionStore(), ...options });
    expect(warnings).toEqual([]);
  });
});

import 'reflect-metadata';
import {
  Catch,
  Controller,
  Get,
  HttpException,
  Inject,
  UseFilters,
  UseGuards,
  type ArgumentsHost,
} from '@nestjs/common';
import { APP_FILTER, BaseExceptionFilter } from '@nestjs/core';
import { describe, expect, it } from 'vitest';
import {
  ActiveSession,
  PublicSession,
  Session,
  SessionConflictError,
  SessionExceptionFilter,
  SessionGuard,
  SessionRegistry,
  SessionService,
} from '../../lib/index.js';
import {
  PLATFORMS,
  startApp,
  UNAUTHORIZED,
  type AppSpec,
  type Data,
  type Platform,
} from './support/test-app.js';
import { WrappedStore } from './support/wrapped-store.js';

@Controller('handler')
@UseGuards(SessionGuard)
class HandlerController {
  constructor(
    @Inject(SessionService) private readonly sessions: SessionService<Data>,
    @Inject(SessionRegistry) private readonly registry: SessionRegistry,
  ) {}

  @Get('sign-in')
  @PublicSession()
  async signIn() {
    return { id: (await this.sessions.create({ name: 'Ada' })).id };
  }

  @Get('save')
  async save(@Session() session: ActiveSession<Data>) {
    session.data.views = (session.data.views ?? 0) + 1;
    await session.save();
    return { views: session.data.views };
  }

  /** Writes at once, and leaves nothing that would be saved before the response. */
  @Get('set')
  async set(@Session() session: ActiveSession<Data>) {
    await session.set('views', 1);
  }

  @Get('set-after-end')
  async setAfterEnd(@Session() session: ActiveSession<Data>) {
    await this.registry.kill(session.id);
    await session.set('views', 1);
  }

  /** As when another device signs this one out while the request runs. */
  @Get('save-after-end')
  async saveAfterEnd(@Session() session: ActiveSession<Data>) {
    await this.registry.kill(session.id);
    session.data.views = 1;
    await session.save();
  }

  @Get('not-storable')
  async notStorable(@Session() session: ActiveSession<Data>) {
    await session.set('views', (() => 1) as unknown as number);
  }

  @Get('conflict')
  @PublicSession()
  conflict() {
    throw new SessionConflictError('an id', 64);
  }

  @Get('misuse')
  async misuse() {
    return this.registry.getUserSessions('');
  }
}

@Controller('handler')
@UseFilters(SessionExceptionFilter)
class FilteredController extends HandlerController {}

/** An app's own last resort. */
@Catch()
class CatchAllFilter extends BaseExceptionFilter {
  override catch(_error: unknown, host: ArgumentsHost): void {
    super.catch(new HttpException('all alike', 418), host);
  }
}

const INTERNAL = { statusCode: 500, message: 'Internal server error' };
const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };

async function start(platform: Platform, spec: AppSpec = {}) {
  const store = new WrappedStore({ exclusive: true });
  const app = await startApp(platform, { session: { store }, controllers: [HandlerController], ...spec });
  const { token } = await app.sessions.create({ name: 'Ada' });
  return { store, app, token };
}

describe.each(PLATFORMS)('SessionErrors thrown by a handler over %s', (platform) => {
  describe('without a filter', () => {
    it('a store that goes down between guard and handler: 500 without details, logged with them', async () => {
      const { store, app, token } = await start(platform);
      store.down = true;
      for (const [path, carried] of [
        ['/handler/set', { bearer: token }],
        ['/handler/sign-in', {}],
      ] as const)
        expect(await app.send(path, carried)).toMatchObject({ status: 500, body: INTERNAL });
      expect(app.logs.matching(/^error SessionStoreUnavailableError/)).toHaveLength(2);
      expect(app.logs.lines.join('\n')).not.toContain(token);
      store.down = false;
      expect((await app.send('/handler/set', { bearer: token })).status).toBe(200);
      expect((await app.sessions.get(token))?.data).toEqual({ name: 'Ada', views: 1 });
    });

    it('and what it left unsaved cannot be saved either: 503 in its place, nothing is half done', async () => {
      const { store, app, token } = await start(platform);
      store.down = true;
      expect(await app.send('/handler/save', { bearer: token })).toMatchObject({
        status: 503,
        body: UNAVAILABLE,
      });
      expect(app.logs.matching(/^error SessionStoreUnavailableError/)).toHaveLength(1);
      expect(app.logs.lines.join('\n')).not.toContain(token);
      store.down = false;
      expect((await app.send('/handler/save', { bearer: token })).body).toEqual({ views: 1 });
    });

    it('a session that ended while the handler ran: 500, then 401 from the guard', async () => {
      const { app, token } = await start(platform);
      expect((await app.send('/handler/set-after-end', { bearer: token })).body).toEqual(INTERNAL);
      expect(app.logs.matching(/^error SessionGoneError.*sign in again/)).toHaveLength(1);
      expect((await app.send('/handler/set', { bearer: token })).status).toBe(401);
    });

    it('and what it left unsaved has nowhere to go: 401 at once, and the session stays ended', async () => {
      const { app, token } = await start(platform);
      const reply = await app.send('/handler/save-after-end', { bearer: token });
      expect(reply).toMatchObject({ status: 401, body: UNAUTHORIZED });
      expect(app.logs.matching(/^error SessionGoneError.*sign in again/)).toHaveLength(1);
      expect((await app.send('/handler/save', { bearer: token })).status).toBe(401);
      expect(await app.sessions.get(token, { fresh: true })).toBeNull();
    });

    it('mistakes of the handler: 500, and the log names the argument or field', async () => {
      const { app, token } = await start(platform);
      expect((await app.send('/handler/not-storable', { bearer: token })).body).toEqual(INTERNAL);
      expect((await app.send('/handler/misuse', { bearer: token })).body).toEqual(INTERNAL);
      expect(app.logs.matching(/^error SessionDataError.*"views"/)).toHaveLength(1);
      expect(app.logs.matching(/^error SessionArgumentError.*"userId"/)).toHaveLength(1);
    });
  });

  describe.each<[string, Partial<AppSpec>]>([
    ['as APP_FILTER', { providers: [{ provide: APP_FILTER, useClass: SessionExceptionFilter }] }],
    [
      'through useGlobalFilters',
      { before: (app) => app.useGlobalFilters(new SessionExceptionFilter(app.getHttpAdapter())) },
    ],
    ['through @UseFilters', { controllers: [FilteredController] }],
    [
      "as APP_FILTER beside the app's own catch-all declared before it",
      {
        providers: [
          { provide: APP_FILTER, useClass: CatchAllFilter },
          { provide: APP_FILTER, useClass: SessionExceptionFilter },
        ],
      },
    ],
  ])('with SessionExceptionFilter %s', (_how, spec) => {
    it('the store down: 503, as from the guard', async () => {
      const { store, app, token } = await start(platform, spec);
      app.cache.clear();
      store.down = true;
      expect(await app.send('/handler/sign-in')).toMatchObject({ status: 503, body: UNAVAILABLE });
      if (!hasCatchAll(spec))
        expect(await app.send('/handler/save', { bearer: token })).toMatchObject({
          status: 503,
          body: UNAVAILABLE,
        });
      expect(app.logs.lines.join('\n')).not.toContain(token);
    });

    it('the session ended: 401, as from the guard', async () => {
      const { app, token } = await start(platform, spec);
      // Nothing is left to save here, so this answer is the filter's.
      const fromHandler = await app.send('/handler/set-after-end', { bearer: token });
      expect(fromHandler).toMatchObject({ status: 401, body: UNAUTHORIZED });
      if (!hasCatchAll(spec))
        expect(await app.send('/handler/save', { bearer: token })).toMatchObject({
          status: 401,
          body: UNAUTHORIZED,
        });
    });

    it('other writers at every try: 409 without the id', async () => {
      const { app } = await start(platform, spec);
      expect(await app.send('/handler/conflict')).toMatchObject({
        status: 409,
        body: { statusCode: 409, message: 'Try again', error: 'Conflict' },
      });
    });

    it("mistakes of the handler are not the filter's: 500 and logged, or what the app makes of them", async () => {
      const { app, token } = await start(platform, spec);
      const reply = await app.send('/handler/not-storable', { bearer: token });
      if (hasCatchAll(spec)) {
        expect(reply.status).toBe(418);
        return;
      }
      expect(reply).toMatchObject({ status: 500, body: INTERNAL });
      expect(app.logs.matching(/^error SessionDataError/)).toHaveLength(1);
    });
  });

  it('a catch-all of the app declared after it gets them all: Nest asks the last one first', async () => {
    const { store, app } = await start(platform, {
      providers: [
        { provide: APP_FILTER, useClass: SessionExceptionFilter },
        { provide: APP_FILTER, useClass: CatchAllFilter },
      ],
    });
    store.down = true;
    expect((await app.send('/handler/sign-in')).status).toBe(418);
  });
});

/** Then the guard's HttpExceptions, too, are the app's to answer. */
const hasCatchAll = ({ providers = [] }: Partial<AppSpec>) => providers.length > 1;

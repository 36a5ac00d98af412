import 'reflect-metadata';
import { Controller, Get, UseGuards } from '@nestjs/common';
import { describe, expect, it, onTestFinished } from 'vitest';
import { SessionGuard, Session, type ActiveSession } from '../../lib/index.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { PLATFORMS, startApp, type Data } from './support/test-app.js';
import { onRedis, untilLive } from './support/test-redis.js';

const REQUESTS = 64;

@Controller('me')
@UseGuards(SessionGuard)
class MeController {
  @Get()
  me(@Session() session: ActiveSession<Data>) {
    return { name: session.data.name };
  }
}

describe.each(PLATFORMS)('cold tokens on %s', (platform) => {
  it(`${REQUESTS} requests at once with one token that no copy is held of: one read of Redis answers them all`, async () => {
    const { redis, keyPrefix } = onRedis();
    /** Commands about this session, as the link to Redis carried them. */
    const sent: string[] = [];
    const watched: string[] = [];
    const link = await TcpProxy.start({
      targetPort: Number(new URL(redis).port || 6379),
      onCommand: (command) => {
        const text = command.join(' ');
        if (watched.some((id) => text.includes(id))) sent.push(text);
      },
    });
    onTestFinished(() => link.close());
    const app = await startApp(platform, {
      controllers: [MeController],
      session: {
        redis: link.url,
        subscriber: redis, // stays open, so that the near cache stays live
        keyPrefix,
        commandTimeout: '30s',
        sweepInterval: '1h',
      },
    });
    await untilLive(app);
    const session = await app.sessions.create({ name: 'Ada' });
    await app.sessions.get(session.token, { fresh: true }); // Redis knows the script from now on
    app.cache.clear();
    watched.push(session.id);
    link.blackhole(); // nobody is answered before all have asked
    const answers = Promise.all(
      Array.from({ length: REQUESTS }, () => app.send('/me', { cookie: session.token })),
    );
    await waitFor(() => app.cache.stats().sharedMisses === REQUESTS - 1);
    link.resume();
    for (const { status, body } of await answers) expect([status, body]).toEqual([200, { name: 'Ada' }]);
    expect(sent).toHaveLength(1);
    expect(app.cache.stats()).toMatchObject({ sharedMisses: REQUESTS - 1, entries: 1 });
  });
});

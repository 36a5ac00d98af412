// SessionHealthIndicator behind a real health route of @nestjs/terminus.
import { Controller, Get } from '@nestjs/common';
import { HealthCheckService, TerminusModule } from '@nestjs/terminus';
import { describe, expect, it, onTestFinished } from 'vitest';
import { SessionHealthIndicator } from '../../lib/health/index.js';
import type { SessionModuleOptions } from '../../lib/index.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { PLATFORMS, startApp, type Platform } from './support/test-app.js';

@Controller()
class HealthController {
  constructor(
    private readonly health: HealthCheckService,
    private readonly sessions: SessionHealthIndicator,
  ) {}

  @Get('health')
  check() {
    return this.health.check([() => this.sessions.isHealthy('sessions', { timeoutMs: 500 })]);
  }
}

async function start(platform: Platform, session: SessionModuleOptions) {
  const app = await startApp(platform, {
    session,
    imports: [TerminusModule.forRoot({ logger: false })],
    controllers: [HealthController],
    providers: [SessionHealthIndicator],
  });
  const ask = async () => {
    const { status, body } = await app.send('/health');
    return {
      status,
      sessions: (body as { details: { sessions: Record<string, unknown> } }).details.sessions,
    };
  };
  return { ...app, ask };
}

describe.each(PLATFORMS)('SessionHealthIndicator: %s', (platform) => {
  it('the memory store is up: no lease, no breaker', async () => {
    const { ask } = await start(platform, {});
    expect(await ask()).toEqual({
      status: 200,
      sessions: {
        status: 'up',
        state: 'up',
        latencyMs: expect.any(Number) as number,
        lease: 'off',
        breaker: null,
      },
    });
  });

  it('Redis: up; degraded while the near cache is suspended; down while it does not answer; up again', async () => {
    const server = await RedisServer.start();
    onTestFinished(() => server.stop());
    const proxy = await TcpProxy.start({ targetPort: server.port });
    onTestFinished(() => proxy.close());
    const { ask, app } = await start(platform, {
      redis: server.url,
      subscriber: proxy.url,
      commandTimeout: '200ms',
      coherence: { leaseMs: 400 },
    });
    const until = (state: string) =>
      waitFor(async () => {
        const answer = await ask();
        return answer.sessions.state === state && answer;
      });
    expect(await until('up')).toMatchObject({
      status: 200,
      sessions: { status: 'up', lease: 'live', breaker: 'closed' },
    });

    proxy.refuse(true);
    proxy.cutAll();
    const degraded = await until('degraded');
    expect(degraded).toMatchObject({
      status: 200,
      sessions: { status: 'up', lease: 'suspended', breaker: 'closed' },
    });
    expect(degraded.sessions.latencyMs).toBeGreaterThan(0);
    proxy.refuse(false);
    await until('up');

    await server.pause();
    onTestFinished(() => server.resume());
    expect(await until('down')).toMatchObject({ status: 503, sessions: { status: 'down', latencyMs: null } });
    // Health checks are commands too.
    const open = await waitFor(async () => {
      const answer = await ask();
      return answer.sessions.breaker === 'open' && answer;
    });
    expect(open).toMatchObject({ status: 503, sessions: { state: 'down' } });
    expect(JSON.stringify(open)).not.toMatch(/redis|127\.0|timeout|econn/i);
    server.resume();
    expect(await until('up')).toMatchObject({ status: 200, sessions: { lease: 'live', breaker: 'closed' } });
    await expect(app.get(SessionHealthIndicator).isHealthy('x', { timeoutMs: 0 })).rejects.toThrow(
      /"options.timeoutMs" must be a whole number.*got 0/,
    );
    expect(await app.get(SessionHealthIndicator).isHealthy('x')).toMatchObject({ x: { status: 'up' } });
  });
});

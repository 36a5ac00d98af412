// Where Nest finds `@Session()` of a parameter, and where what it needs must be found too.
import 'reflect-metadata';
import { Controller, Get, UseGuards, type CanActivate } from '@nestjs/common';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Session, type ActiveSession } from '../../lib/index.js';
import { PLATFORMS, startApp } from './support/test-app.js';

/** As decorators of apps do that measure or log: another function, and nothing of what stood on the first. */
const Wrapped = (): MethodDecorator => (_target, _name, descriptor) => {
  const method = descriptor.value as (...args: unknown[]) => unknown;
  const value = function (this: unknown, ...args: unknown[]): unknown {
    return method.apply(this, args);
  };
  return { ...descriptor, value: value as never };
};

class Lets implements CanActivate {
  canActivate(): boolean {
    return true;
  }
}

const given = (session: ActiveSession | undefined) => ({ stored: session?.isStored });

abstract class Base {
  @Get('inherited')
  inherited(@Session() session: ActiveSession) {
    return given(session);
  }

  @Get('overridden')
  overridden(@Session() session: ActiveSession) {
    return given(session);
  }
}

@Controller()
@UseGuards(Lets)
class Pages extends Base {
  @Get('wrapped')
  @Wrapped()
  wrapped(@Session() session: ActiveSession) {
    return given(session);
  }

  @Get('overridden')
  override overridden(session: ActiveSession) {
    return given(session);
  }
}

describe.each(PLATFORMS)('@Session() on %s', (platform) => {
  it.each(['inherited', 'overridden', 'wrapped'])('is given to a method that is %s', async (path) => {
    const app = await startApp(platform, { controllers: [Pages] });
    onTestFinished(() => app.close());
    const reply = await app.send(`/${path}`);
    expect([reply.status, reply.body]).toEqual([200, { stored: false }]);
  });
});

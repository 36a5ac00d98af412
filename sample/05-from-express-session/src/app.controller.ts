import { Controller, Get, HttpCode, Post, Req } from '@nestjs/common';
import type { Request } from 'express';

/** What the app has always been: it knows `req.session`, and none of the three stages changes it. */
@Controller()
export class AppController {
  @Get('count')
  count(@Req() request: Request): object {
    const session = request.session as unknown as { views?: number };
    session.views = (session.views ?? 0) + 1;
    return { views: session.views };
  }

  @Post('sign-out')
  @HttpCode(204)
  signOut(@Req() request: Request): Promise<void> {
    return new Promise((resolve, reject) => {
      request.session.destroy((error: unknown) => (error ? reject(error as Error) : resolve()));
    });
  }
}

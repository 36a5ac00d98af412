// The published types, seen from an ES module without ioredis.
import { type ActiveSession, SessionModule, type SessionService } from 'nestjs-sessionkit';

export const module = SessionModule.forRoot({ idleTimeout: '30m' });
export async function read(sessions: SessionService, token: string): Promise<string | null> {
  const session: ActiveSession | null = await sessions.get(token);
  return session?.userId ?? null;
}
// @ts-expect-error an unknown option is a type error, so the types were really found
SessionModule.forRoot({ idleTimeOut: '30m' });

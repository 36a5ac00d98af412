// Finds a TCP port nobody listens on.
import { createServer } from 'node:net';

/**
 * A port that was free on 127.0.0.1 a moment ago. Someone else may take it before you do, so a caller that binds
 * it must be ready to ask again. Rejects only when the machine has no port left.
 */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.unref();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = address !== null && typeof address === 'object' ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

// The worker's side of `node-worker.ts`: plain JavaScript, so a worker runs without a build of the tests.

/**
 * Answers the parent's calls with these methods, until the parent disconnects. Results cross by structured clone;
 * errors as name, code, message, stack and cause. The process is never ended from here: it must do so by itself.
 * @param {Record<string, (...args: any[]) => unknown>} methods any: each takes what its own tests send
 */
export function serve(methods) {
  const answer = async ({ id, method, args }) => {
    try {
      if (!Object.hasOwn(methods, method)) {
        throw Object.assign(new Error(`The worker serves no method "${method}"`), { code: 'ERR_NO_METHOD' });
      }
      const value = await methods[method](...args);
      post({ id, value });
    } catch (error) {
      post({ id, error: flatten(error) });
    }
  };
  process.on('message', (message) => void answer(message));
  post({ ready: true });
}

/**
 * Sends `{ event, ...fields }` to the parent's `events`; dropped silently once the parent is gone.
 * @param {string} event
 * @param {Record<string, unknown>} [fields]
 */
export function emit(event, fields = {}) {
  post({ emitted: { ...fields, event } });
}

function post(message) {
  if (process.connected) process.send(message, () => {});
}

function flatten(error, depth = 0) {
  if (!(error instanceof Error)) return { name: 'NonError', message: String(error) };
  const { name, code, message, stack, cause } = error;
  const plain = { name, message, stack };
  if (typeof code === 'string' || typeof code === 'number') plain.code = code;
  if (cause instanceof Error && depth < 5) plain.cause = flatten(cause, depth + 1);
  return plain;
}

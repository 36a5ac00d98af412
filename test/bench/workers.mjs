// Processes of a deployment: each runs a file of this folder that serves methods by `../support/worker-rpc.mjs`.
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Resolves to `{ call(method, ...args), stop() }` when the worker serves; its output goes to ours. */
export async function startWorker(file, execArgv = []) {
  const child = fork(fileURLToPath(new URL(file, import.meta.url)), [], {
    execArgv,
    serialization: 'advanced',
  });
  const pending = new Map();
  let calls = 0;
  let problem;
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill); // also when the benchmark fails or is interrupted
  const ended = new Promise((resolve) => {
    child.once('error', resolve);
    child.once('exit', (code, signal) => resolve(new Error(`${file} ended (${signal ?? code})`)));
  }).then((error) => {
    problem = error;
    process.off('exit', kill);
    for (const { reject } of pending.values()) reject(error);
  });
  const ready = new Promise((resolve, reject) => {
    pending.set('ready', { resolve, reject });
    child.on('message', ({ ready: isReady, id, value, error }) => {
      const key = isReady ? 'ready' : id;
      const call = pending.get(key);
      pending.delete(key);
      if (error) call?.reject(Object.assign(new Error(`${file}: ${error.message}`), { cause: error }));
      else call?.resolve(value);
    });
  });
  await ready;
  return {
    call: (method, ...args) =>
      new Promise((resolve, reject) => {
        if (problem) return reject(problem);
        const id = ++calls;
        pending.set(id, { resolve, reject });
        child.send({ id, method, args });
      }),
    /** A worker whose app was closed ends by itself; after a failure it may not. */
    async stop() {
      if (child.connected) child.disconnect();
      const timer = setTimeout(kill, 2_000);
      await ended;
      clearTimeout(timer);
    },
  };
}

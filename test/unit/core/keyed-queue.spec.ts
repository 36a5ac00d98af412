import { describe, expect, it } from 'vitest';
import { KeyedQueue } from '../../../lib/core/keyed-queue.js';

interface Gate {
  readonly opened: Promise<void>;
  open(): void;
}

function gate(): Gate {
  let open = () => undefined as void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

describe('KeyedQueue', () => {
  it('run() of one key: tasks run one after another, in order', async () => {
    const queue = new KeyedQueue(5_000, () => new Error('too late'));
    const log: string[] = [];
    const first = gate();
    const a = queue.run('k', async () => {
      log.push('a begins');
      await first.opened;
      log.push('a ends');
      return 1;
    });
    const b = queue.run('k', async () => (log.push('b'), 2));
    const c = queue.run('k', async () => (log.push('c'), 3));
    await Promise.resolve();
    expect(log).toEqual(['a begins']);
    first.open();
    expect(await Promise.all([a, b, c])).toEqual([1, 2, 3]);
    expect(log).toEqual(['a begins', 'a ends', 'b', 'c']);
  });

  it('run() of a task that throws at once rejects, first or not, and the next one runs', async () => {
    const queue = new KeyedQueue(5_000, () => new Error('too late'));
    const thrown = () => {
      throw new Error('thrown');
    };
    const first = queue.run('k', thrown);
    const second = queue.run('k', thrown);
    const third = queue.run('k', async () => 3);
    await expect(first).rejects.toThrow('thrown');
    await expect(second).rejects.toThrow('thrown');
    expect(await third).toBe(3);
    await queue.idle();
  });

  it('run() of another key does not wait', async () => {
    const queue = new KeyedQueue(5_000, () => new Error('too late'));
    const held = gate();
    const a = queue.run('a', () => held.opened);
    expect(await queue.run('b', async () => 'done')).toBe('done');
    held.open();
    await a;
  });

  it('a task that rejects rejects its own caller only, and the next one runs', async () => {
    const queue = new KeyedQueue(5_000, () => new Error('too late'));
    const failed = queue.run('k', () => Promise.reject(new Error('mine')));
    const next = queue.run('k', async () => 'fine');
    await expect(failed).rejects.toThrow('mine');
    expect(await next).toBe('fine');
  });

  it('a task that is added while the last one settles still runs after it', async () => {
    const queue = new KeyedQueue(5_000, () => new Error('too late'));
    let running = 0;
    const task = async () => {
      expect(++running).toBe(1);
      await Promise.resolve();
      running--;
    };
    const chain = async () => {
      for (let i = 0; i < 20; i++) await queue.run('k', task);
    };
    await Promise.all([chain(), chain(), chain()]);
  });

  it('idle() resolves when what was queued has ended, well or badly', async () => {
    const queue = new KeyedQueue(5_000, () => new Error('too late'));
    await queue.idle();
    const held = gate();
    let ended = 0;
    const tasks = [
      queue.run('a', () => held.opened.then(() => void ended++)),
      queue.run('a', async () => void ended++),
      queue.run('b', () => Promise.reject(new Error('badly'))),
    ];
    let idle = false;
    const waiting = queue.idle().then(() => (idle = true));
    await Promise.allSettled([tasks[2]]);
    expect(idle).toBe(false);
    held.open();
    await waiting;
    expect(ended).toBe(2);
    await Promise.allSettled(tasks);
  });

  it('a task whose turn does not come in time is refused and never run; the ones behind it keep their order', async () => {
    const queue = new KeyedQueue(40, () => new Error('too late'));
    const ran: string[] = [];
    let release = () => {};
    const first = queue.run('a', () => new Promise<void>((resolve) => (release = resolve)));
    const second = queue.run('a', async () => void ran.push('second'));
    await expect(second).rejects.toThrow('too late');
    const third = queue.run('a', async () => void ran.push('third'));
    release();
    await Promise.all([first, third]);
    expect(ran).toEqual(['third']);
  });

  it('a task that waits for another of its own key is not stuck for ever', async () => {
    const queue = new KeyedQueue(40, () => new Error('too late'));
    const outer = queue.run('a', () => queue.run('a', async () => 'inner'));
    await expect(outer).rejects.toThrow('too late');
    expect(await queue.run('a', async () => 'next')).toBe('next');
  });
});

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'vitest';
import { DiskSessionStore } from '../../../lib/disk-store/index.js';
import { ManualClock } from '../../support/manual-clock.js';
import { describeSessionStore } from '../../support/session-store.suite.js';

const newPath = () => join(mkdtempSync(join(tmpdir(), 'sessionkit-disk-')), 'sessions');

describeSessionStore({ describe, it }, 'DiskSessionStore', async () => {
  const clock = new ManualClock();
  const path = newPath();
  const store = new DiskSessionStore({ path, clock });
  await store.open();
  return {
    store,
    advance: (ms) => clock.advance(ms),
    close: async () => {
      await store.close();
      rmSync(join(path, '..'), { recursive: true });
    },
  };
});

describeSessionStore({ describe, it }, 'DiskSessionStore, shared', async () => {
  const clock = new ManualClock();
  const path = newPath();
  const [store, peer] = [0, 1].map(() => new DiskSessionStore({ path, clock, shared: true })) as [
    DiskSessionStore,
    DiskSessionStore,
  ];
  await Promise.all([store.open(), peer.open()]);
  return {
    store,
    peer,
    advance: (ms) => clock.advance(ms),
    close: async () => {
      await Promise.all([store.close(), peer.close()]);
      rmSync(join(path, '..'), { recursive: true });
    },
  };
});

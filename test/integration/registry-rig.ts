// What the tests of limits, sweeps and kills share: nodes with their store at hand, processes, and an audit of all keys.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NestFactory } from '@nestjs/core';
import type { Redis } from 'ioredis';
import {
  RedisSubscriber,
  SESSION_STORE,
  SessionEvents,
  SessionModule,
  SessionRegistry,
  SessionService,
  type SessionModuleOptions,
} from '../../lib/index.js';
import type { RedisSessionStore } from '../../lib/store/redis-session.store.js';
import type { SessionEventMap } from '../../lib/events/session-events.js';
import { NodeWorker } from '../support/node-worker.js';
import { waitFor } from '../support/wait-for.js';
import type { Fields } from './session-node.js';

export interface RegistryNode {
  readonly sessions: SessionService<Fields>;
  readonly registry: SessionRegistry;
  readonly store: RedisSessionStore;
  readonly subscriber: RedisSubscriber;
  /** What this process was told of, in order. */
  readonly expired: SessionEventMap['expired'][];
  readonly destroyed: SessionEventMap['destroyed'][];
  close(): Promise<void>;
}

/** Longer than any test: nothing is swept. */
export const NO_SWEEP = '1h';

/** The module in this process, its events collected. */
export async function openRegistryNode(options: SessionModuleOptions): Promise<RegistryNode> {
  const app = await NestFactory.createApplicationContext(SessionModule.forRoot(options), {
    logger: false,
    abortOnError: false,
  });
  const events = app.get(SessionEvents);
  const node: RegistryNode = {
    sessions: app.get<SessionService<Fields>>(SessionService),
    registry: app.get(SessionRegistry),
    store: app.get<RedisSessionStore>(SESSION_STORE),
    subscriber: app.get(RedisSubscriber),
    expired: [],
    destroyed: [],
    close: () => app.close(),
  };
  events.on('expired', (told) => node.expired.push(told));
  events.on('destroyed', (told) => node.destroyed.push(told));
  if (options.cache !== false) await waitFor(() => node.subscriber.live, { message: 'the subscription' });
  return node;
}

/** Calls `then` once, after the store of this node has got the answer to its `nth` script of this name. */
export function afterAnswer({ store }: RegistryNode, operation: string, nth: number, then: () => void): void {
  const { connection } = store;
  const run = connection.run.bind(connection);
  let left = nth;
  connection.run = async (...script) => {
    const reply = await run(...script);
    if (script[0] === operation && --left === 0) then();
    return reply;
  };
}

/** `workers/registry-worker.mjs`, booted with these options (they must survive a structured clone). */
export async function startRegistryWorker(options: SessionModuleOptions, log?: string): Promise<NodeWorker> {
  const worker = await NodeWorker.start(new URL('./workers/registry-worker.mjs', import.meta.url));
  await worker.call('boot', options, log);
  return worker;
}

/** A file that processes write to what expired in them. */
export class ExpiryLog {
  readonly #directory = mkdtempSync(join(tmpdir(), 'sessionkit-expired-'));
  readonly path = join(this.#directory, 'log');

  read(): SessionEventMap['expired'][] {
    try {
      return readFileSync(this.path, 'utf8')
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as SessionEventMap['expired']);
    } catch {
      return []; // nobody has written yet
    }
  }

  remove(): void {
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

export async function keysOf(redis: Redis, prefix: string): Promise<string[]> {
  const keys = new Set<string>();
  let cursor = '0';
  do {
    const [next, found] = await redis.scan(cursor, 'MATCH', `${prefix}*`, 'COUNT', 1000);
    for (const key of found) keys.add(key);
    cursor = next;
  } while (cursor !== '0');
  return [...keys].sort();
}

export interface Audit {
  /** `<id> <user>` of every session that lives, by the records. */
  readonly alive: string[];
  /** What stands in an index without being alive, or is alive without standing in it. Empty is what it should be. */
  readonly wrong: string[];
  /** `<id> <user>` of those marked as on their way to another partition: they may stand in indexes, and go by themselves. */
  readonly moving: string[];
}

// One step of the server, so that no other command comes in between. `KEYS` and 16 partitions: for tests only.
const AUDIT = `
local prefix, now = ARGV[1], redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local alive, wrong, moving, live, ids = {}, {}, {}, {}, {}
for _, key in ipairs(redis.call('KEYS', prefix .. '{*}:s:*')) do
  local text = redis.call('GET', key)
  if text and string.byte(text) == 77 then
    local member = string.match(key, ':s:(.*)$') .. ' ' .. (string.match(text, '^(%S*) ', 92) or '')
    live[member] = true
    table.insert(moving, member)
  end
  if text and string.byte(text) == 49 then
    local p, id = string.match(key, '{(%d+)}:s:(.*)$')
    local access, idle, absolute = tonumber(string.sub(text, 28, 40)), tonumber(string.sub(text, 42, 52)), tonumber(string.sub(text, 54, 66))
    local ends = absolute
    if idle > 0 and (ends == 0 or access + idle < ends) then ends = access + idle end
    if ends == 0 or ends > ms then
      local usr = string.match(text, '^(%S*) ', 82) or ''
      local member = id .. ' ' .. usr
      live[member] = true
      table.insert(alive, member)
      if not redis.call('ZSCORE', prefix .. '{' .. p .. '}:exp', member) then table.insert(wrong, 'not in exp: ' .. member) end
      if usr ~= '' and not redis.call('ZSCORE', prefix .. '{' .. p .. '}:u:' .. usr, id) then table.insert(wrong, 'not in u: ' .. member) end
    else
      live[string.match(key, ':s:(.*)$') .. ' ' .. (string.match(text, '^(%S*) ', 82) or '')] = true
    end
  end
end
for member in pairs(live) do ids[string.sub(member, 1, 23)] = true end
for name, known in pairs({ exp = live, act = ids }) do
  for _, key in ipairs(redis.call('KEYS', prefix .. '{*}:' .. name)) do
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      if not known[member] then table.insert(wrong, 'ghost in ' .. name .. ': ' .. member) end
    end
  end
end
for _, key in ipairs(redis.call('KEYS', prefix .. '{*}:u:*')) do
  local usr = string.match(key, '}:u:(.*)$')
  for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    if not live[id .. ' ' .. usr] then table.insert(wrong, 'ghost in u: ' .. id .. ' ' .. usr) end
  end
end
for _, key in ipairs(redis.call('KEYS', prefix .. '{*}:users')) do
  local base = string.match(key, '^(.*)users$')
  for _, usr in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    if redis.call('EXISTS', base .. 'u:' .. usr) == 0 then table.insert(wrong, 'ghost in users: ' .. usr) end
  end
end
return { alive, wrong, moving }
`;

/** Compares records and indexes, of one moment. A session that has expired and was not swept yet may stand in both. */
export async function audit(redis: Redis, prefix: string): Promise<Audit> {
  const [alive, wrong, moving] = (await redis.eval(AUDIT, 0, prefix)) as [string[], string[], string[]];
  return { alive, wrong, moving };
}

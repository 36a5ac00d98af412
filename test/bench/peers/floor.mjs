// The least work that could stand in the place of an operation: raw commands, and the floor.
//
// The floor asks Redis for what the package's scripts ask of it for the same effect (one round trip, an index by user, one
// by deadline, an announcement, the server's clock) in the shortest script that does, with JSON both ways. It is what the
// package could reach at most without doing less.
import { randomBytes } from 'node:crypto';
import { IDLE_SECONDS, makeData, newPrefix } from '../kit.mjs';
import { deleteByPrefix } from '../redis.mjs';

const USERS = 500;
export const userOf = (index) => `user-${index % USERS}`;

const IDLE_MS = IDLE_SECONDS * 1_000;
/** As many keys of each kind as the package has partitions, so that the indexes are as long. */
const PARTITIONS = 16;

export async function openRaw({ raw, prefix = newPrefix() }) {
  const client = raw.duplicate();
  const ttl = ['EX', IDLE_SECONDS];
  return {
    prefix,
    async create() {
      const key = prefix + newToken();
      await client.set(key, JSON.stringify(makeData()), ...ttl);
      return key;
    },
    async get(key) {
      const text = await client.get(key);
      return text === null ? undefined : JSON.parse(text).x;
    },
    save: (key, x) => client.set(key, JSON.stringify(makeData(x)), ...ttl),
    touch: (key) => client.pexpire(key, IDLE_MS),
    destroy: (key) => client.del(key),
    clear: () => deleteByPrefix(raw, prefix),
    close: async () => client.disconnect(),
  };
}

/** KEYS: record, deadlines, user index. ARGV: text, id, user, channel. */
const SCRIPTS = {
  floorCreate: {
    keys: 3,
    lua: `local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', now + ${IDLE_MS})
redis.call('PUBLISH', ARGV[4], ARGV[2])
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PXAT', ends) then return 0 end
redis.call('ZADD', KEYS[2], ends, ARGV[2] .. ' ' .. ARGV[3])
if redis.call('PEXPIRETIME', KEYS[2]) < tonumber(ends) then redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', now + ${IDLE_MS * 2})) end
redis.call('ZADD', KEYS[3], now, ARGV[2])
if redis.call('PEXPIRETIME', KEYS[3]) < tonumber(ends) then redis.call('PEXPIREAT', KEYS[3], string.format('%.0f', now + ${IDLE_MS * 2})) end
return now`,
  },
  floorSave: {
    keys: 3,
    lua: `if not redis.call('GET', KEYS[1]) then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', now + ${IDLE_MS})
redis.call('PUBLISH', ARGV[4], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ends)
if redis.call('PEXPIRETIME', KEYS[2]) < tonumber(ends) then redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', now + ${IDLE_MS * 2})) end
redis.call('ZADD', KEYS[3], now, ARGV[2])
if redis.call('PEXPIRETIME', KEYS[3]) < tonumber(ends) then redis.call('PEXPIREAT', KEYS[3], string.format('%.0f', now + ${IDLE_MS * 2})) end
return now`,
  },
  floorTouch: {
    keys: 3,
    lua: `if redis.call('GETRANGE', KEYS[1], 0, 84) == '' then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', now + ${IDLE_MS})
redis.call('SETRANGE', KEYS[1], 31, string.format('%013.0f', now))
redis.call('PEXPIREAT', KEYS[1], ends)
if redis.call('PEXPIRETIME', KEYS[2]) < tonumber(ends) then redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', now + ${IDLE_MS * 2})) end
redis.call('ZADD', KEYS[3], now, ARGV[2])
if redis.call('PEXPIRETIME', KEYS[3]) < tonumber(ends) then redis.call('PEXPIREAT', KEYS[3], string.format('%.0f', now + ${IDLE_MS * 2})) end
return now`,
  },
  floorDestroy: {
    keys: 5,
    lua: `if not redis.call('GET', KEYS[1]) then return 0 end
redis.call('PUBLISH', ARGV[4], ARGV[2])
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2] .. ' ' .. ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('ZREM', KEYS[4], ARGV[2] .. ' ' .. ARGV[3])
if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('ZREM', KEYS[5], ARGV[3]) end
return 1`,
  },
};
/** As long as a record's header and metadata, so that the same number of bytes goes over the wire. */
const HEADER = '1'.repeat(84) + JSON.stringify({ createdAt: 1_900_000_000_000 });

export async function openFloor({ raw, prefix = newPrefix() }) {
  const client = raw.duplicate();
  for (const [name, { keys, lua }] of Object.entries(SCRIPTS))
    client.defineCommand(name, { numberOfKeys: keys, lua });
  const text = (x) => `${HEADER}\n${JSON.stringify(makeData(x))}`;
  const channel = `${prefix}inv`;
  const textAt = HEADER.length + 1;
  return {
    prefix,
    async create(index) {
      const id = newToken();
      const user = userOf(index);
      const partition = index % PARTITIONS;
      const session = {
        id,
        user,
        record: `${prefix}${partition}:s:${id}`,
        deadlines: `${prefix}${partition}:exp`,
        byUser: `${prefix}${partition}:u:${user}`,
        activity: `${prefix}${partition}:act`,
        users: `${prefix}${partition}:users`,
      };
      await client.floorCreate(session.record, session.deadlines, session.byUser, text(), id, user, channel);
      return session;
    },
    async get({ record }) {
      const reply = await client.get(record); // the server's clock is asked once a second
      return reply === null ? undefined : JSON.parse(reply.slice(textAt)).x;
    },
    save: ({ record, deadlines, byUser, id, user }, x) =>
      client.floorSave(record, deadlines, byUser, text(x), id, user, channel),
    touch: ({ record, deadlines, byUser, id, user }) =>
      client.floorTouch(record, deadlines, byUser, '', id, user, channel),
    destroy: ({ record, deadlines, byUser, activity, users, id, user }) =>
      client.floorDestroy(record, deadlines, byUser, activity, users, '', id, user, channel),
    clear: () => deleteByPrefix(raw, prefix),
    close: async () => client.disconnect(),
  };
}

const newToken = () => randomBytes(33).toString('base64url');

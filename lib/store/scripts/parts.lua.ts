/** Milliseconds for which an ended record's key outlives its logical deadline, so that a sweep finds its user. */
export const GRACE_MS = 60_000;

/*
 * Pieces of Lua that scripts are put together from. Offsets are those of redis-record.ts, counted from 1. Times are the
 * server's. Nothing here decodes data, builds key names, or grows with the number of sessions.
 *
 * A request pays for each thing a script does with a part of a microsecond of the one thread that all processes share
 * (counted in instructions with valgrind, Redis 7.0; an empty script 12,000 to 20,000): a function defined 1,000 to 2,000,
 * so that each script takes only those it needs, and the ones that run most take none; a number made to text 4,000,
 * hence times and versions go as the text they are found as, which is as long as any other and compares the same; a table
 * replied 5,000 to 8,000, a text 1,000; a number instead of a text handed to `call` 2,000.
 */

/** The server's clock: `us` in microseconds and `stamp` in milliseconds as a record has them, `now` as a number. */
export const CLOCK = `
local time = call('TIME')
local us = sub('0000000000' .. time[1], -10) .. sub('00000' .. time[2], -6)
local stamp = sub(us, 1, 13)
local now = stamp + 0
`;

/** The version that follows this one, as text: the time, but never the same or less. */
export const NEXT = `
local function after(ver)
  if us > ver then return us end
  return format('%016.0f', (tonumber(ver) or 0) + 1)
end
`;

/** Functions that read the fixed-offset header of a record's text. Malformed numbers read as 0. */
export const READ = `
local function number(text, first, last) return tonumber(sub(text, first, last)) or 0 end
local function version(text) return sub(text, 3, 18) end
local function nonce(text) return sub(text, 20, 26) end
local function lastAccess(text) return number(text, 28, 40) end
local function idleTimeout(text) return number(text, 42, 52) end
local function absoluteDeadline(text) return number(text, 54, 66) end
local function createdAt(text) return number(text, 68, 80) end
local function user(text) return string.match(text, '^(%S*) ', 82) or '' end
`;

/** The earlier of both deadlines in ms; 0 = never. */
export const DEADLINE = `
local function deadline(access, idle, absolute)
  local ends = absolute
  if idle > 0 and (ends == 0 or access + idle < ends) then ends = access + idle end
  return ends
end
`;

/** The same for `idle` and `absolute`, without a function; to be put after `ends =`. */
export const endsFrom = (access: string): string => `absolute
if idle > 0 and (ends == 0 or ${access} + idle < ends) then ends = ${access} + idle end
`;

/** Needs READ and DEADLINE. */
export const LIVE = `
local function live(text, now)
  if not text or string.byte(text) ~= 49 then return false end
  local ends = deadline(lastAccess(text), idleTimeout(text), absoluteDeadline(text))
  return ends == 0 or ends > now
end
`;

/**
 * Writes a record with its expiry. `created` is the time of creation and a space, as the record has it. Replies the head
 * of the text, up to there.
 */
export const PUT = `
local function put(key, ver, non, access, idle, absolute, created, rest, ends)
  local head = format('1 %s %s %013.0f %011.0f %013.0f %s', ver, non, access, idle, absolute, created)
  if ends == 0 then
    call('SET', key, head .. rest)
  else
    call('SET', key, head .. rest, 'PXAT', ends + ${GRACE_MS})
  end
  return head
end
`;

/**
 * An index key lives at least as long as its members, and a quarter longer so that few changes must prolong it. One
 * without expiry held an immortal session, and gets none before it holds but one member: of the others nobody knows here
 * until when they live. It goes with the last one, by the sweep at the latest.
 */
export const PROLONG = `
local function prolong(key, ends, now)
  local expires = call('PEXPIRETIME', key)
  if ends == 0 then
    if expires >= 0 then call('PERSIST', key) end
    return
  end
  local wanted = ends + ${GRACE_MS}
  if expires == -1 then
    if call('ZCARD', key) ~= 1 then return end
  elseif expires >= wanted then
    return
  end
  if expires ~= -2 then call('PEXPIREAT', key, format('%.0f', wanted + (ends - now) / 4)) end
end
`;

/** The same for the scripts that run most: where there is nothing to prolong, as nearly always, no function is made. */
export const prolonged = (key: string): string => `
if ends == 0 or call('PEXPIRETIME', ${key}) < ends + ${GRACE_MS} then
  ${PROLONG}
  prolong(${key}, ends, now)
end
`;

/**
 * Enters a session into its indexes, as far as there are any. userKey is nil for an anonymous one, or stands for none by
 * being that of the deadlines; access is text. Needs PROLONG.
 */
export const ENLIST = `
local function enlist(deadlines, userKey, id, usr, access, ends, now)
  if not deadlines then return end
  call('ZADD', deadlines, ends == 0 and '+inf' or ends, id .. ' ' .. usr)
  prolong(deadlines, ends, now)
  if userKey and userKey ~= deadlines then
    call('ZADD', userKey, access, id)
    prolong(userKey, ends, now)
  end
end
`;

/**
 * Takes a session out of all indexes there are; true if it was in that of deadlines, which every stored one is in. userKey
 * as above.
 */
export const DELIST = `
local function delist(userKey, deadlines, activity, users, id, usr)
  if not deadlines then return false end
  if activity then call('ZREM', activity, id) end
  if userKey ~= deadlines then
    call('ZREM', userKey, id)
    if users and call('EXISTS', userKey) == 0 then call('ZREM', users, usr) end
  end
  return call('ZREM', deadlines, id .. ' ' .. usr) == 1
end
`;

/** The form of invalidation-message.ts. */
export const ANNOUNCE = `
local function announce(channel, operation, id, ver, origin)
  call('PUBLISH', channel, operation .. ' ' .. id .. ' ' .. ver .. ' ' .. origin)
end
`;

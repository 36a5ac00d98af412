/** Milliseconds for which an ended record's key outlives its logical deadline, so that a sweep finds its user. */
export const GRACE_MS = 60_000;

/*
 * Pieces of Lua that scripts are put together from. Each script takes only those it needs: every function it defines
 * costs the server a tenth of a microsecond per call. Offsets are those of redis-record.ts, counted from 1. Times are
 * the server's. Nothing here decodes data, builds key names, or grows with the number of sessions.
 */

/** `us`, `now`: the server's clock in microseconds and milliseconds. */
export const CLOCK = `
local time = call('TIME')
local us = time[1] * 1000000 + time[2]
local now = math.floor(us / 1000)
`;

/** Functions that read the fixed-offset header of a record's text. Malformed numbers read as 0. */
export const READ = `
local function number(text, first, last) return tonumber(sub(text, first, last)) or 0 end
local function version(text) return number(text, 3, 18) end
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

/**
 * `access`, `idle`, `absolute`, `ends` of a record's `text`; replies { -1 } when it has expired. The same as READ and
 * LIVE without a function, for the scripts that run most. Needs CLOCK and DEADLINE.
 */
export const TIMES = `
local access = tonumber(sub(text, 28, 40)) or 0
local idle = tonumber(sub(text, 42, 52)) or 0
local absolute = tonumber(sub(text, 54, 66)) or 0
local ends = deadline(access, idle, absolute)
if ends > 0 and ends <= now then return { -1 } end
`;

/** Needs READ and DEADLINE. */
export const LIVE = `
local function live(text, now)
  if not text or string.byte(text) ~= 49 then return false end
  local ends = deadline(lastAccess(text), idleTimeout(text), absoluteDeadline(text))
  return ends == 0 or ends > now
end
`;

/** Writes a record with its expiry. `created` is the time of creation and a space, as the record has it. */
export const PUT = `
local function put(key, ver, non, access, idle, absolute, created, rest, ends)
  local text = format('1 %016.0f %s %013.0f %011.0f %013.0f ', ver, non, access, idle, absolute) .. created .. rest
  if ends == 0 then
    call('SET', key, text)
  else
    call('SET', key, text, 'PXAT', format('%.0f', ends + ${GRACE_MS}))
  end
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

/**
 * Enters a session into its indexes, as far as there are any. userKey is nil for an anonymous one, or stands for none by
 * being that of the deadlines; access is text. Needs PROLONG.
 */
export const ENLIST = `
local function enlist(deadlines, userKey, id, usr, access, ends, now)
  if not deadlines then return end
  call('ZADD', deadlines, ends == 0 and '+inf' or format('%.0f', ends), id .. ' ' .. usr)
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
  call('PUBLISH', channel, format('%s %s %016.0f %s', operation, id, ver, origin))
end
`;

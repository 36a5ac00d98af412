/** Milliseconds for which an ended record's key outlives its logical deadline, so that a sweep finds its user. */
export const GRACE_MS = 60_000;

/**
 * Functions shared by the scripts; offsets are those of redis-record.ts, counted from 1. Time is the server's.
 *
 * Nothing here decodes data, builds key names, or grows with the number of sessions.
 */
export const PRELUDE = `
local GRACE = ${GRACE_MS}

local function clock()
  local t = redis.call('TIME')
  local us = t[1] * 1000000 + t[2]
  return us, math.floor(us / 1000)
end

local function number(text, first, last)
  return tonumber(string.sub(text, first, last)) or 0
end

local function version(text) return number(text, 3, 18) end
local function nonce(text) return string.sub(text, 20, 30) end
local function lastAccess(text) return number(text, 32, 44) end
local function idleTimeout(text) return number(text, 46, 56) end
local function absoluteDeadline(text) return number(text, 58, 70) end
local function user(text) return string.match(text, '^(%S*) ', 86) or '' end

-- The earlier of both deadlines in ms; 0 = never.
local function deadline(access, idle, absolute)
  local ends = 0
  if idle > 0 then ends = access + idle end
  if absolute > 0 and (ends == 0 or absolute < ends) then ends = absolute end
  return ends
end

local function live(text, now)
  if not text or string.byte(text) ~= 49 then return false end
  local ends = deadline(lastAccess(text), idleTimeout(text), absoluteDeadline(text))
  return ends == 0 or ends > now
end

local function header(ver, non, access, idle, absolute)
  return string.format('1 %016.0f %s %013.0f %011.0f %013.0f ', ver, non, access, idle, absolute)
end

local function put(key, text, ends)
  if ends == 0 then
    redis.call('SET', key, text)
  else
    redis.call('SET', key, text, 'PXAT', string.format('%.0f', ends + GRACE))
  end
end

-- An index key lives at least as long as its members, and a quarter longer so that few changes must prolong it.
local function prolong(key, ends, now)
  local expires = redis.call('PEXPIRETIME', key)
  if ends == 0 then
    if expires >= 0 then redis.call('PERSIST', key) end
  elseif (expires >= 0 and expires < ends + GRACE) or (expires == -1 and redis.call('ZCARD', key) == 1) then
    redis.call('PEXPIREAT', key, string.format('%.0f', ends + GRACE + (ends - now) / 4))
  end
end

-- userKey is nil for an anonymous session.
local function enlist(deadlines, userKey, id, usr, access, ends, now)
  redis.call('ZADD', deadlines, ends == 0 and '+inf' or ends, id .. ' ' .. usr)
  prolong(deadlines, ends, now)
  if userKey then
    redis.call('ZADD', userKey, access, id)
    prolong(userKey, ends, now)
  end
end

local function delist(deadlines, userKey, id, usr)
  redis.call('ZREM', deadlines, id .. ' ' .. usr)
  if userKey then redis.call('ZREM', userKey, id) end
end

local function announce(channel, operation, id, ver, origin)
  redis.call('PUBLISH', channel, string.format('%s %s %016.0f %s', operation, id, ver, origin))
end
`;

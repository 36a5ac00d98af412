import {
  ANNOUNCE,
  CLOCK,
  DEADLINE,
  DELIST,
  ENLIST,
  GRACE_MS,
  LIVE,
  PROLONG,
  PUT,
  READ,
  TIMES,
} from './parts.lua.js';
import { script } from './script.js';

/** KEYS: record. Replies nil when absent, else { text, seconds, microseconds }; the client looks at the deadline. */
export const GET = script(`
local text = redis.call('GET', KEYS[1])
if not text then return false end
local time = redis.call('TIME')
return { text, time[1], time[2] }
`);

/**
 * KEYS: record, [deadlines, [user index]].
 * ARGV: nonce, idle, absolute timeout, id, encoded user, tail, and to have it announced channel and origin.
 * Replies { 1, version, createdAt, lastAccess, absolute deadline, now }, or { 0 } when the id is taken.
 * A record that already carries our nonce is our own, whose reply was lost.
 */
export const CREATE = script(`
${CLOCK}${PUT}${PROLONG}${ENLIST}
if redis.call('EXISTS', KEYS[1]) == 1 then
  ${READ}${DEADLINE}${LIVE}
  local text = redis.call('GET', KEYS[1])
  if nonce(text) == ARGV[1] and string.byte(text) == 49 then
    return { 1, version(text), createdAt(text), lastAccess(text), absoluteDeadline(text), now }
  end
  if live(text, now) or string.byte(text) ~= 49 then return { 0 } end
  if KEYS[2] then redis.call('ZREM', KEYS[2], ARGV[4] .. ' ' .. user(text)) end
end
local idle = tonumber(ARGV[2])
local absolute = tonumber(ARGV[3])
if absolute > 0 then absolute = now + absolute end
local ends = absolute
if idle > 0 and (ends == 0 or now + idle < ends) then ends = now + idle end
if ARGV[7] then
  redis.call('PUBLISH', ARGV[7], string.format('create %s %016.0f %s', ARGV[4], us, ARGV[8]))
end
put(KEYS[1], us, ARGV[1], now, idle, absolute, string.format('%013.0f ', now) .. ARGV[6], ends)
enlist(KEYS[2], KEYS[3], ARGV[4], ARGV[5], now, ends, now)
return { 1, us, now, now, absolute, now }
`);

/**
 * KEYS: record, [deadlines, [user index]].
 * ARGV: expected version (16 digits), nonce, keep expiry ('1'/'0'), id, tail, channel, origin, and a new idle timeout where
 * there is one.
 * Replies { 1, version, lastAccess, now }, { 0, current text, now } on conflict, { -1 } when gone.
 */
export const SET = script(`
local text = redis.call('GET', KEYS[1])
if not text or string.byte(text) ~= 49 then return { -1 } end
${CLOCK}${DEADLINE}${TIMES}${PUT}${PROLONG}
local ver = tonumber(string.sub(text, 3, 18)) or 0
if string.sub(text, 3, 18) ~= ARGV[1] then
  if string.sub(text, 20, 30) == ARGV[2] then return { 1, ver, access, now } end
  return { 0, text, now }
end
ver = math.max(ver + 1, us)
redis.call('PUBLISH', ARGV[6], string.format('update %s %016.0f %s', ARGV[4], ver, ARGV[7]))
if ARGV[3] == '1' then
  put(KEYS[1], ver, ARGV[2], access, idle, absolute, string.sub(text, 72, 85) .. ARGV[5], ends)
  return { 1, ver, access, now }
end
if ARGV[8] then idle = tonumber(ARGV[8]) end
ends = deadline(now, idle, absolute)
if ARGV[8] and KEYS[2] then
  local member = ARGV[4] .. ' ' .. (string.match(text, '^(%S*) ', 86) or '')
  redis.call('ZADD', KEYS[2], ends == 0 and '+inf' or string.format('%.0f', ends), member)
end
put(KEYS[1], ver, ARGV[2], now, idle, absolute, string.sub(text, 72, 85) .. ARGV[5], ends)
if KEYS[2] then prolong(KEYS[2], ends, now) end
if KEYS[3] then
  redis.call('ZADD', KEYS[3], string.format('%.0f', now), ARGV[4])
  prolong(KEYS[3], ends, now)
end
return { 1, ver, now, now }
`);

/**
 * KEYS: record, [deadlines, [user index]]. ARGV: id, encoded user the caller believes in, least age in ms.
 * Replies { 1, version, lastAccess, now }, { -1 } when gone, { 2, encoded user } when that is another one.
 * Not announced: copies only live longer by it (COHERENCE rule 12).
 */
export const TOUCH = script(`
local believed = ARGV[2] .. ' '
local text = redis.call('GETRANGE', KEYS[1], 0, 84 + #believed)
if string.byte(text) ~= 49 then return { -1 } end
${CLOCK}${DEADLINE}${TIMES}${PROLONG}
if string.sub(text, 86) ~= believed then
  return { 2, string.match(redis.call('GET', KEYS[1]), '^(%S*) ', 86) or '' }
end
local ver = tonumber(string.sub(text, 3, 18)) or 0
if now - access < tonumber(ARGV[3]) then return { 1, ver, access, now } end
ends = deadline(now, idle, absolute)
redis.call('SETRANGE', KEYS[1], 31, string.format('%013.0f', now))
if ends > 0 then redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', ends + ${GRACE_MS})) end
if KEYS[2] then prolong(KEYS[2], ends, now) end
if KEYS[3] then
  redis.call('ZADD', KEYS[3], string.format('%.0f', now), ARGV[1])
  prolong(KEYS[3], ends, now)
end
return { 1, ver, now, now }
`);

/**
 * Ends up to some hundred sessions of one partition.
 * KEYS: for each session its record, [for each its user index (the deadlines key where there is none), deadlines, [activity,
 * [users]]].
 * ARGV: channel, origin, then for each session its id, then for each the encoded user the caller believes in.
 * Replies one item per session: 1 ended, 0 was not there, or the encoded user when that is another one (not ended).
 */
export const DESTROY = script(`
${CLOCK}${READ}${DEADLINE}${LIVE}${ANNOUNCE}${DELIST}
local count = #ARGV / 2 - 1
local deadlines, activity, users = KEYS[2 * count + 1], KEYS[2 * count + 2], KEYS[2 * count + 3]
local replies = {}
for i = 1, count do
  local key, id, believed = KEYS[i], ARGV[2 + i], ARGV[2 + count + i]
  local text = redis.call('GET', key)
  local actual = believed
  if text and string.byte(text) == 49 then actual = user(text) end
  if text and string.byte(text) == 77 then actual = user(string.sub(text, 15)) end
  if actual ~= believed then
    replies[i] = actual
  else
    announce(ARGV[1], 'destroy', id, us, ARGV[2])
    local isLive = live(text, now)
    local isRecord = text and string.byte(text) == 49 and lastAccess(text) > 0
    -- What has expired is the sweep's, which tells of it.
    local isDue = isRecord and not isLive and deadlines and redis.call('ZSCORE', deadlines, id .. ' ' .. believed)
    if not isDue then
      -- Not what leads to the session that took its place: who signs out by it is led there.
      if text and string.byte(text) ~= 65 then redis.call('DEL', key) end
      delist(KEYS[count + i], deadlines, activity, users, id, believed)
    end
    replies[i] = isLive and 1 or 0
  end
end
return replies
`);

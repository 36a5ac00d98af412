import { CLOCK, DEADLINE, DELIST, ENLIST, GRACE_MS, LIVE, PROLONG, PUT, READ, TIMES } from './parts.lua.js';
import { script } from './script.js';

/** KEYS: record. Replies nil when absent, else { text, seconds, microseconds }; the client looks at the deadline. */
export const GET = script(`
local text = call('GET', KEYS[1])
if not text then return false end
local time = call('TIME')
return { text, time[1], time[2] }
`);

/**
 * KEYS: record, [deadlines, [user index]].
 * ARGV: nonce, idle, absolute timeout, id, encoded user, tail, and to have it announced channel and origin.
 * Replies { 1, version, createdAt, lastAccess, absolute deadline, now }, or { 0 } when the id is taken.
 * A record that already carries our nonce is our own, whose reply was lost.
 */
export const CREATE = script(`
${CLOCK}${PROLONG}${ENLIST}
local idle = tonumber(ARGV[2])
local absolute = tonumber(ARGV[3])
if absolute > 0 then absolute = now + absolute end
local ends = absolute
if idle > 0 and (ends == 0 or now + idle < ends) then ends = now + idle end
local stamp = format('%.0f', now)
local text = format('1 %016.0f %s %s %011.0f %013.0f ', us, ARGV[1], stamp, idle, absolute) .. stamp .. ' ' .. ARGV[6]
local function store(condition)
  if ends == 0 then return call('SET', KEYS[1], text, condition) end
  return call('SET', KEYS[1], text, 'PXAT', format('%.0f', ends + ${GRACE_MS}), condition)
end
local function announce()
  call('PUBLISH', ARGV[7], format('create %s %016.0f %s', ARGV[4], us, ARGV[8]))
end
local isTaken = ARGV[7] and call('EXISTS', KEYS[1]) == 1
if ARGV[7] and not isTaken then announce() end
if isTaken or not store('NX') then
  ${READ}${DEADLINE}${LIVE}
  local text = call('GET', KEYS[1])
  if nonce(text) == ARGV[1] and string.byte(text) == 49 then
    return { 1, version(text), createdAt(text), lastAccess(text), absoluteDeadline(text), now }
  end
  if live(text, now) or string.byte(text) ~= 49 then return { 0 } end
  if ARGV[7] then announce() end
  if KEYS[2] then call('ZREM', KEYS[2], ARGV[4] .. ' ' .. user(text)) end
  store('XX')
end
enlist(KEYS[2], KEYS[3], ARGV[4], ARGV[5], stamp, ends, now)
return { 1, us, now, now, absolute, now }
`);

/**
 * KEYS: record, [deadlines, [user index]].
 * ARGV: expected version (16 digits), nonce, keep expiry ('1'/'0'), id, tail, channel, origin, and a new idle timeout where
 * there is one.
 * Replies { 1, version, lastAccess, now }, { 0, current text, now } on conflict, { -1 } when gone.
 */
export const SET = script(`
local text = call('GETRANGE', KEYS[1], 0, 80)
if string.byte(text) ~= 49 then return { -1 } end
${CLOCK}${DEADLINE}${TIMES}${PUT}${PROLONG}
local ver = tonumber(sub(text, 3, 18)) or 0
if sub(text, 3, 18) ~= ARGV[1] then
  if sub(text, 20, 26) == ARGV[2] then return { 1, ver, access, now } end
  return { 0, call('GET', KEYS[1]), now }
end
ver = math.max(ver + 1, us)
call('PUBLISH', ARGV[6], format('update %s %016.0f %s', ARGV[4], ver, ARGV[7]))
if ARGV[3] == '1' then
  put(KEYS[1], ver, ARGV[2], access, idle, absolute, sub(text, 68, 81), ARGV[5], ends)
  return { 1, ver, access, now }
end
if ARGV[8] then idle = tonumber(ARGV[8]) end
ends = deadline(now, idle, absolute)
if ARGV[8] and KEYS[2] then
  local member = ARGV[4] .. ' ' .. (string.match(ARGV[5], '^(%S*) ') or '')
  call('ZADD', KEYS[2], ends == 0 and '+inf' or format('%.0f', ends), member)
end
put(KEYS[1], ver, ARGV[2], now, idle, absolute, sub(text, 68, 81), ARGV[5], ends)
if KEYS[2] then prolong(KEYS[2], ends, now) end
if KEYS[3] then
  call('ZADD', KEYS[3], format('%.0f', now), ARGV[4])
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
local text = call('GETRANGE', KEYS[1], 0, 80 + #believed)
if string.byte(text) ~= 49 then return { -1 } end
${CLOCK}${DEADLINE}${TIMES}${PROLONG}
if sub(text, 82) ~= believed then
  return { 2, string.match(call('GET', KEYS[1]), '^(%S*) ', 82) or '' }
end
local ver = tonumber(sub(text, 3, 18)) or 0
if now - access < tonumber(ARGV[3]) then return { 1, ver, access, now } end
ends = deadline(now, idle, absolute)
call('SETRANGE', KEYS[1], 27, format('%013.0f', now))
if ends > 0 then call('PEXPIREAT', KEYS[1], format('%.0f', ends + ${GRACE_MS})) end
if KEYS[2] then prolong(KEYS[2], ends, now) end
if KEYS[3] then
  call('ZADD', KEYS[3], format('%.0f', now), ARGV[1])
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
${CLOCK}${DEADLINE}${DELIST}
local count = #ARGV / 2 - 1
local deadlines, activity, users = KEYS[2 * count + 1], KEYS[2 * count + 2], KEYS[2 * count + 3]
local replies = {}
for i = 1, count do
  local key, id, believed = KEYS[i], ARGV[2 + i], ARGV[2 + count + i]
  local text = call('GET', key)
  local kind = text and string.byte(text)
  local userAt = kind == 49 and 82 or 92 -- beneath the mark of a move
  local isWrong = (kind == 49 or kind == 77) and sub(text, userAt, userAt + #believed) ~= believed .. ' '
  local actual = isWrong and (string.match(text, '^(%S*) ', userAt) or '')
  if isWrong and actual ~= believed then
    replies[i] = actual
  else
    call('PUBLISH', ARGV[1], format('destroy %s %016.0f %s', id, us, ARGV[2]))
    local isLive, isDue = false, false
    if kind == 49 then
      local access = tonumber(sub(text, 28, 40)) or 0
      local ends = deadline(access, tonumber(sub(text, 42, 52)) or 0, tonumber(sub(text, 54, 66)) or 0)
      isLive = ends == 0 or ends > now
      -- What has expired is the sweep's, which tells of it.
      isDue = not isLive and access > 0 and deadlines and call('ZSCORE', deadlines, id .. ' ' .. believed)
    end
    if not isDue then
      -- Not what leads to the session that took its place: who signs out by it is led there.
      if text and kind ~= 65 then call('DEL', key) end
      delist(KEYS[count + i], deadlines, activity, users, id, believed)
    end
    replies[i] = isLive and 1 or 0
  end
end
return replies
`);

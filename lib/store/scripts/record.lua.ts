import { CLOCK, DEADLINE, DELIST, endsFrom, GRACE_MS, LIVE, prolonged, READ } from './parts.lua.js';
import { script } from './script.js';

/**
 * KEYS: record, [deadlines, [user index]].
 * ARGV: nonce, idle (11 digits), absolute timeout, id, encoded user, tail, and to have it announced channel and origin.
 * Replies the record's head and the time (`createdRecord`), or 0 when the id is taken.
 * A record that already carries our nonce is our own, whose reply was lost.
 */
export const CREATE = script(`
${CLOCK}
local idle, absolute = ARGV[2] + 0, ARGV[3] + 0
if absolute > 0 then absolute = now + absolute end
local ends = ${endsFrom('now')}
local head = '1 ' .. us .. ' ' .. ARGV[1] .. ' ' .. stamp .. ' ' .. ARGV[2] .. format(' %013.0f ', absolute) .. stamp .. ' '
local text = head .. ARGV[6]
if ends == 0 or ARGV[7] or not call('SET', KEYS[1], text, 'PXAT', ends + ${GRACE_MS}, 'NX') then
  ${READ}${DEADLINE}${LIVE}
  local existing = call('GET', KEYS[1])
  if existing then
    if nonce(existing) == ARGV[1] and string.byte(existing) == 49 then return sub(existing, 1, 81) .. stamp end
    if live(existing, now) or string.byte(existing) ~= 49 then return 0 end
  end
  if ARGV[7] then call('PUBLISH', ARGV[7], 'create ' .. ARGV[4] .. ' ' .. us .. ' ' .. ARGV[8]) end
  if existing and KEYS[2] then call('ZREM', KEYS[2], ARGV[4] .. ' ' .. user(existing)) end
  if ends == 0 then call('SET', KEYS[1], text) else call('SET', KEYS[1], text, 'PXAT', ends + ${GRACE_MS}) end
end
if KEYS[2] then
  call('ZADD', KEYS[2], ends == 0 and '+inf' or ends, ARGV[4] .. ' ' .. ARGV[5])
  ${prolonged('KEYS[2]')}
end
if KEYS[3] then
  call('ZADD', KEYS[3], stamp, ARGV[4])
  ${prolonged('KEYS[3]')}
end
return head .. stamp
`);

/**
 * KEYS: record, [deadlines, [user index]].
 * ARGV: expected version (16 digits), nonce, keep expiry ('1'/'0'), id, tail, channel, origin, and a new idle timeout (11
 * digits) where there is one.
 * Replies version, lastAccess and the time (`parseTimes`), { 0, current text, now } on conflict, { -1 } when gone.
 */
export const SET = script(`
local text = call('GETRANGE', KEYS[1], '0', '80')
${CLOCK}
if sub(text, 1, 18) ~= '1 ' .. ARGV[1] then
  ${READ}${DEADLINE}${LIVE}
  if not live(text, now) then return { -1 } end
  if nonce(text) == ARGV[2] then return version(text) .. sub(text, 27, 41) .. stamp end
  return { 0, call('GET', KEYS[1]), now }
end
local access, idle, absolute = sub(text, 28, 40), sub(text, 42, 52) + 0, sub(text, 54, 66) + 0
local ends = ${endsFrom('access')}
if ends > 0 and ends <= now then return { -1 } end
local ver = us
if ver <= ARGV[1] then ver = format('%016.0f', ARGV[1] + 1) end
call('PUBLISH', ARGV[6], 'update ' .. ARGV[4] .. ' ' .. ver .. ' ' .. ARGV[7])
local keeps, unchanged = ARGV[3] == '1', sub(text, 41, 81)
if not keeps then
  access = stamp
  if ARGV[8] then
    idle = ARGV[8] + 0
    unchanged = ' ' .. ARGV[8] .. sub(text, 53, 81)
  end
  ends = ${endsFrom('now')}
end
text = '1 ' .. ver .. ' ' .. ARGV[2] .. ' ' .. access .. unchanged .. ARGV[5]
if ends == 0 then call('SET', KEYS[1], text) else call('SET', KEYS[1], text, 'PXAT', ends + ${GRACE_MS}) end
if keeps then return ver .. ' ' .. access .. ' ' .. stamp end
if KEYS[2] then
  if ARGV[8] then
    local member = ARGV[4] .. ' ' .. (string.match(ARGV[5], '^(%S*) ') or '')
    call('ZADD', KEYS[2], ends == 0 and '+inf' or ends, member)
  end
  ${prolonged('KEYS[2]')}
end
if KEYS[3] then
  call('ZADD', KEYS[3], stamp, ARGV[4])
  ${prolonged('KEYS[3]')}
end
return ver .. ' ' .. access .. ' ' .. stamp
`);

/**
 * KEYS: record, [deadlines, [user index]]. ARGV: id, encoded user the caller believes in, least age in ms.
 * Replies version, lastAccess and the time (`parseTimes`), { -1 } when gone, { 2, encoded user } when that is another one.
 * Not announced: copies only live longer by it (COHERENCE rule 12).
 */
export const TOUCH = script(`
local believed = ARGV[2] .. ' '
local text = call('GETRANGE', KEYS[1], '0', 80 + #believed)
if sub(text, 1, 1) ~= '1' then return { -1 } end
${CLOCK}
local access = tonumber(sub(text, 28, 40)) or 0
local idle = tonumber(sub(text, 42, 52)) or 0
local absolute = tonumber(sub(text, 54, 66)) or 0
local ends = ${endsFrom('access')}
if ends > 0 and ends <= now then return { -1 } end
if sub(text, 82) ~= believed then
  return { 2, string.match(call('GET', KEYS[1]), '^(%S*) ', 82) or '' }
end
if now - access < ARGV[3] + 0 then return sub(text, 3, 18) .. sub(text, 27, 41) .. stamp end
ends = ${endsFrom('now')}
call('SETRANGE', KEYS[1], '27', stamp)
if ends > 0 then call('PEXPIREAT', KEYS[1], ends + ${GRACE_MS}) end
if KEYS[2] then ${prolonged('KEYS[2]')} end
if KEYS[3] then
  call('ZADD', KEYS[3], stamp, ARGV[1])
  ${prolonged('KEYS[3]')}
end
return sub(text, 3, 18) .. ' ' .. stamp .. ' ' .. stamp
`);

/**
 * Ends up to some hundred sessions of one partition.
 * KEYS: for each session its record, [for each its user index (the deadlines key where there is none), deadlines, [activity,
 * [users]]].
 * ARGV: channel, origin, then for each session its id, then for each the encoded user the caller believes in.
 * Replies one item per session, without a table where it is one: 1 ended, 0 was not there, or the encoded user when that
 * is another one (not ended).
 */
export const DESTROY = script(`
${CLOCK}${DELIST}
local count = #ARGV / 2 - 1
local deadlines, activity, users = KEYS[2 * count + 1], KEYS[2 * count + 2], KEYS[2 * count + 3]
local replies = {}
for i = 1, count do
  local key, id, believed = KEYS[i], ARGV[2 + i], ARGV[2 + count + i]
  local text = call('GET', key)
  local kind = text and sub(text, 1, 1)
  local userAt = kind == '1' and 82 or 92 -- beneath the mark of a move
  local isWrong = (kind == '1' or kind == 'M') and sub(text, userAt, userAt + #believed) ~= believed .. ' '
  local actual = isWrong and (string.match(text, '^(%S*) ', userAt) or '')
  if isWrong and actual ~= believed then
    replies[i] = actual
  else
    call('PUBLISH', ARGV[1], 'destroy ' .. id .. ' ' .. us .. ' ' .. ARGV[2])
    local isLive, isDue = false, false
    if kind == '1' then
      local access = tonumber(sub(text, 28, 40)) or 0
      local idle = tonumber(sub(text, 42, 52)) or 0
      local absolute = tonumber(sub(text, 54, 66)) or 0
      local ends = ${endsFrom('access')}
      isLive = ends == 0 or ends > now
      -- What has expired is the sweep's, which tells of it.
      isDue = not isLive and access > 0 and deadlines and call('ZSCORE', deadlines, id .. ' ' .. believed)
    end
    if not isDue then
      -- Not what leads to the session that took its place: who signs out by it is led there.
      if text and kind ~= 'A' then call('DEL', key) end
      delist(KEYS[count + i], deadlines, activity, users, id, believed)
    end
    replies[i] = isLive and 1 or 0
  end
end
return count == 1 and replies[1] or replies
`);

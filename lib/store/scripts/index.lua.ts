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
} from './parts.lua.js';
import { script } from './script.js';

/** Where a record's text gives its metadata, as JSON. */
const METADATA = `
local function metadata(text) return string.match(text, '^%S* ([^\\n]*)\\n', 82) or '' end
`;

/** True while a session on its way to another partition may still be put back (MARK_MOVED). */
const MARKED = `
local function marked(text, key, now)
  return text and string.byte(text) == 77 and call('PEXPIRETIME', key) - ${GRACE_MS} > now
end
`;

/**
 * A new session of a user who may have only so many. What of theirs has expired makes room first; then, if the policy
 * is `evict`, the least recently used. All in one step, so that no number of processes gets past the limit.
 * KEYS: record, the records of the sessions that may have to make room, user index, deadlines, [activity, users].
 * ARGV: nonce, idle, absolute timeout, id, encoded user, tail, channel, origin, limit, policy, then the ids of those.
 * Replies { 1, head and time (`createdRecord`), ended } when created, { 0 } when the id is taken, { 2, ids, ended, count }
 * when these must be sent along, the least recently used of so many, { 3, count, ended } when the limit is reached. `ended`
 * holds id, `evicted` or `expired`, and metadata of each session that made room.
 */
export const CREATE_LIMITED = script(`
${CLOCK}${READ}${DEADLINE}${LIVE}${PUT}${PROLONG}${ENLIST}${DELIST}${ANNOUNCE}${METADATA}${MARKED}
local offers = #ARGV - 10
local userKey, deadlines, activity, users = KEYS[offers + 2], KEYS[offers + 3], KEYS[offers + 4], KEYS[offers + 5]
local existing = call('GET', KEYS[1])
if existing then
  if nonce(existing) == ARGV[1] and string.byte(existing) == 49 then
    return { 1, sub(existing, 1, 81) .. stamp, {} }
  end
  return { 0 }
end
local ended = {}
local offered = {}
local function finish(id, key, how, text)
  local isMark = text and string.byte(text) == 77
  if isMark then text = sub(text, 11) end
  delist(userKey, deadlines, activity, users, id, ARGV[5])
  call('DEL', key)
  if isMark and how == 'expired' then return end -- it was moved
  table.insert(ended, id)
  table.insert(ended, how)
  table.insert(ended, text and metadata(text) or '')
end
for i = 1, offers do
  local id, key = ARGV[10 + i], KEYS[1 + i]
  local text = call('GET', key)
  if live(text, now) or marked(text, key, now) then
    offered[id] = key
  elseif call('ZSCORE', userKey, id) then
    finish(id, key, 'expired', text)
  end
end
local limit = tonumber(ARGV[9])
local count = call('ZCARD', userKey)
while count >= limit do
  local oldest = call('ZRANGE', userKey, 0, 0)[1]
  local key = offered[oldest]
  if not key then return { 2, call('ZRANGE', userKey, 0, 199), ended, count } end
  if ARGV[10] ~= 'evict' then return { 3, count, ended } end
  announce(ARGV[7], 'destroy', oldest, us, ARGV[8])
  finish(oldest, key, 'evicted', call('GET', key))
  count = count - 1
end
local idle = tonumber(ARGV[2])
local absolute = tonumber(ARGV[3])
if absolute > 0 then absolute = now + absolute end
local ends = deadline(now, idle, absolute)
local head = put(KEYS[1], us, ARGV[1], now, idle, absolute, stamp .. ' ', ARGV[6], ends)
enlist(deadlines, userKey, ARGV[4], ARGV[5], stamp, ends, now)
return { 1, head .. stamp, ended }
`);

/**
 * Looks at sessions whose deadline, as their index has it, has passed: puts those right that have been used since, and
 * removes the others.
 * KEYS: for each session its record, for each its user index (the deadlines key where there is none), deadlines, [activity,
 * [users]]. ARGV: for each session its id, then for each its encoded user.
 * Replies one item per session: its metadata where this call removed it, 1 where it is in the middle of a move and stays,
 * else 0.
 */
export const SWEEP = script(`
${CLOCK}${READ}${DEADLINE}${LIVE}${DELIST}${METADATA}${MARKED}
local count = #ARGV / 2
local deadlines, activity, users = KEYS[2 * count + 1], KEYS[2 * count + 2], KEYS[2 * count + 3]
local replies = {}
for i = 1, count do
  local key, id, usr = KEYS[i], ARGV[i], ARGV[count + i]
  local text = call('GET', key)
  replies[i] = 0
  if live(text, now) and user(text) == usr then
    local ends = deadline(lastAccess(text), idleTimeout(text), absoluteDeadline(text))
    call('ZADD', deadlines, 'XX', ends == 0 and '+inf' or format('%.0f', ends), id .. ' ' .. usr)
  elseif marked(text, key, now) then
    replies[i] = 1
  else
    local isRecord = text and string.byte(text) == 49 and user(text) == usr
    if delist(KEYS[count + i], deadlines, activity, users, id, usr) and (isRecord or not text) then
      replies[i] = isRecord and metadata(text) or ''
    end
    if isRecord or text and string.byte(text) == 77 then call('DEL', key) end
  end
end
return replies
`);

/**
 * Enters when sessions and users were last active, later than it was and off the paths that are waited for. Only what is
 * in the index of deadlines: what has ended meanwhile stays out.
 * KEYS: deadlines, activity, [users]. ARGV: for each session its id, its encoded user, and the time.
 */
export const NOTE_ACTIVITY = script(`
for i = 1, #ARGV, 3 do
  local id, usr, at = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if call('ZSCORE', KEYS[1], id .. ' ' .. usr) then
    call('ZADD', KEYS[2], 'GT', at, id)
    if KEYS[3] and usr ~= '' then call('ZADD', KEYS[3], 'GT', at, usr) end
  end
end
local expires = call('PEXPIRETIME', KEYS[1])
for i = 2, #KEYS do
  if expires == -1 then call('PERSIST', KEYS[i])
  elseif expires > 0 then call('PEXPIREAT', KEYS[i], format('%.0f', expires)) end
end
return 1
`);

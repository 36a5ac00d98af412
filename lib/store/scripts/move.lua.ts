import {
  ANNOUNCE,
  CLOCK,
  DEADLINE,
  DELIST,
  ENLIST,
  GRACE_MS,
  LIVE,
  NEXT,
  PROLONG,
  PUT,
  READ,
} from './parts.lua.js';
import { script } from './script.js';

const PARTS = CLOCK + NEXT + READ + DEADLINE + LIVE + PUT + PROLONG + ENLIST + DELIST + ANNOUNCE;

/** True while sessions of that time are being ended (`SessionStore.fence`), and this one is not spared. */
const FENCED = `
local function fenced(text, id, key)
  local fence = call('GET', key)
  return fence and createdAt(text) <= tonumber(sub(fence, 1, 13)) and not string.find(fence, id, 14, true)
end
`;

/**
 * New token, same user, same partition: one step.
 * KEYS: old record, new record, fence, the user's fence (the same where anonymous), [user index (the deadlines key where
 * there is none), deadlines, [activity, [users]]].
 * ARGV: expected version, nonce, old id, new id, encoded user, idle, new tail, channel, origin, absolute timeout from now
 * (empty: the deadline is inherited, as the time of creation always is), and, if the old id is to lead to the new one, for
 * how many ms it does, and for how many of these reads follow it.
 * Replies { 1, head and time (`createdRecord`) }, { 0, current text, now }, or { -1 }.
 */
export const ROTATE = script(`
${PARTS}${FENCED}
local new = call('GET', KEYS[2])
if new and nonce(new) == ARGV[2] then
  return { 1, sub(new, 1, 81) .. stamp }
end
local text = call('GET', KEYS[1])
if not live(text, now) then return { -1 } end
if fenced(text, ARGV[3], KEYS[3]) or KEYS[4] ~= KEYS[3] and fenced(text, ARGV[3], KEYS[4]) then return { -1 } end
if sub(text, 3, 18) ~= ARGV[1] then return { 0, text, now } end
if KEYS[4] ~= KEYS[3] and call('EXISTS', KEYS[4]) == 1 then call('APPEND', KEYS[4], ' ' .. ARGV[4]) end
local ver = after(version(text))
local idle = tonumber(ARGV[6])
local absolute = absoluteDeadline(text)
if ARGV[10] ~= '' then
  absolute = tonumber(ARGV[10])
  if absolute > 0 then absolute = now + absolute end
end
local ends = deadline(now, idle, absolute)
announce(ARGV[8], 'destroy', ARGV[3], us, ARGV[9])
local head = put(KEYS[2], ver, ARGV[2], now, idle, absolute, sub(text, 68, 81), ARGV[7], ends)
if ARGV[11] then
  local text = format('A %s %013.0f', ARGV[4], now + tonumber(ARGV[12]))
  call('SET', KEYS[1], text, 'PX', ARGV[11])
else
  call('DEL', KEYS[1])
end
delist(KEYS[5], KEYS[6], KEYS[7], KEYS[8], ARGV[3], ARGV[5])
enlist(KEYS[6], KEYS[5], ARGV[4], ARGV[5], stamp, ends, now)
return { 1, head .. stamp }
`);

/**
 * First half of a move to another partition: the old session ends, its record stays readable for a restore. It stays in
 * the index of deadlines, as due, and in its user's: so it still counts against the user's limit, whoever ends all sessions
 * finds it, and the sweep removes it where nobody comes back to it.
 * KEYS: old record, [user index (the deadlines key where there is none), deadlines, [activity, [users]]]. ARGV: expected version, nonce, id, encoded user, channel, origin,
 * for how many ms the mark stands (never beyond the session's own deadline); its key outlives that for the sweep.
 * Replies { 1 }, { 0, current text, now }, or { -1 }.
 */
export const MARK_MOVED = script(`
${PARTS}
local text = call('GET', KEYS[1])
if text and string.byte(text) == 77 and sub(text, 3, 9) == ARGV[2] then return { 1 } end
if not live(text, now) then return { -1 } end
if sub(text, 3, 18) ~= ARGV[1] then return { 0, text, now } end
local ends = deadline(lastAccess(text), idleTimeout(text), absoluteDeadline(text))
local stands = tonumber(ARGV[7])
if ends > 0 and ends - now < stands then stands = ends - now end
announce(ARGV[5], 'destroy', ARGV[3], us, ARGV[6])
call('SET', KEYS[1], 'M ' .. ARGV[2] .. ' ' .. text, 'PX', format('%.0f', stands + ${GRACE_MS}))
if KEYS[3] then call('ZADD', KEYS[3], 'XX', stamp, ARGV[3] .. ' ' .. ARGV[4]) end
if KEYS[4] then call('ZREM', KEYS[4], ARGV[3]) end
return { 1 }
`);

/**
 * Takes a failed move back while its mark stands. KEYS and nonce as above. ARGV: nonce, id, encoded user, channel,
 * origin. Announced, because others may remember by now that there is no such session.
 * Replies 1 when the session lives again, 0 when the mark has gone (the session was ended meanwhile, or expired).
 */
export const RESTORE_MOVED = script(`
${PARTS}
local mark = call('GET', KEYS[1])
if mark and live(mark, now) and nonce(mark) == ARGV[1] then return 1 end
if not mark or string.byte(mark) ~= 77 or sub(mark, 3, 9) ~= ARGV[1] then return 0 end
local text = sub(mark, 11)
if not live(text, now) then
  delist(KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[2], ARGV[3])
  call('DEL', KEYS[1])
  return 0
end
local ver = after(version(text))
local access, idle, absolute = lastAccess(text), idleTimeout(text), absoluteDeadline(text)
local ends = deadline(access, idle, absolute)
announce(ARGV[4], 'update', ARGV[2], ver, ARGV[5])
put(KEYS[1], ver, ARGV[1], access, idle, absolute, sub(text, 68, 81), sub(text, 82), ends)
enlist(KEYS[3], KEYS[2], ARGV[2], ARGV[3], format('%.0f', access), ends, now)
return 1
`);

/**
 * Last step of a move that went well: nothing is left of the old session. Where it does not come to this, the sweep does it.
 * KEYS as above. ARGV: nonce, id, encoded user.
 */
export const FORGET_MOVED = script(`
${DELIST}
local mark = call('GET', KEYS[1])
if not mark or string.byte(mark) ~= 77 or sub(mark, 3, 9) ~= ARGV[1] then return 0 end
delist(KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[2], ARGV[3])
call('DEL', KEYS[1])
return 1
`);

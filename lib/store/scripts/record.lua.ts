import { PRELUDE } from './prelude.lua.js';

/** A Lua script and the name it is registered under on our own connection. */
export interface Script {
  readonly name: string;
  readonly lua: string;
}

const script = (name: string, body: string): Script => ({ name, lua: PRELUDE + body });

/**
 * KEYS: record. Replies nil when absent or expired, else { text, now }.
 * A text of another layout is handed over too: only the client can say what is wrong with it.
 */
export const GET = script(
  'sessionkitGet',
  `
local text = redis.call('GET', KEYS[1])
if not text then return false end
local us, now = clock()
local kind = string.byte(text)
if kind == 77 or (kind == 49 and not live(text, now)) then return false end
return { text, now }
`,
);

/**
 * KEYS: record, deadlines, [user index].
 * ARGV: nonce, idle, absolute timeout, id, encoded user, tail.
 * Replies { 1, version, createdAt, lastAccess, absolute deadline, now }, or { 0 } when the id is taken.
 * A record that already carries our nonce is our own, whose reply was lost.
 */
export const CREATE = script(
  'sessionkitCreate',
  `
local us, now = clock()
local text = redis.call('GET', KEYS[1])
if text then
  if nonce(text) == ARGV[1] and string.byte(text) == 49 then
    return { 1, version(text), number(text, 72, 84), lastAccess(text), absoluteDeadline(text), now }
  end
  if live(text, now) or string.byte(text) ~= 49 then return { 0 } end
  delist(KEYS[2], nil, ARGV[4], user(text))
end
local idle = tonumber(ARGV[2])
local absolute = tonumber(ARGV[3])
if absolute > 0 then absolute = now + absolute end
local ends = deadline(now, idle, absolute)
put(KEYS[1], header(us, ARGV[1], now, idle, absolute) .. string.format('%013.0f ', now) .. ARGV[6], ends)
enlist(KEYS[2], KEYS[3], ARGV[4], ARGV[5], now, ends, now)
return { 1, us, now, now, absolute, now }
`,
);

/**
 * KEYS: record, deadlines, [user index].
 * ARGV: expected version (16 digits), nonce, keep expiry ('1'/'0'), id, tail, channel, origin.
 * Replies { 1, version, lastAccess, now }, { 0, current text, now } on conflict, { -1 } when gone.
 */
export const SET = script(
  'sessionkitSet',
  `
local text = redis.call('GET', KEYS[1])
local us, now = clock()
if not live(text, now) then return { -1 } end
if string.sub(text, 3, 18) ~= ARGV[1] then
  if nonce(text) == ARGV[2] then return { 1, version(text), lastAccess(text), now } end
  return { 0, text, now }
end
local ver = math.max(version(text) + 1, us)
local access = ARGV[3] == '1' and lastAccess(text) or now
local idle = idleTimeout(text)
local absolute = absoluteDeadline(text)
local ends = deadline(access, idle, absolute)
announce(ARGV[6], 'update', ARGV[4], ver, ARGV[7])
put(KEYS[1], header(ver, ARGV[2], access, idle, absolute) .. string.sub(text, 72, 85) .. ARGV[5], ends)
if KEYS[3] and access == now then
  redis.call('ZADD', KEYS[3], now, ARGV[4])
  prolong(KEYS[3], ends, now)
end
prolong(KEYS[2], ends, now)
return { 1, ver, access, now }
`,
);

/**
 * KEYS: record, deadlines, [user index]. ARGV: id, encoded user the caller believes in, least age in ms.
 * Replies { 1, version, lastAccess, now }, { -1 } when gone, { 2, encoded user } when that is another one.
 * Not announced: copies only live longer by it (COHERENCE rule 12).
 */
export const TOUCH = script(
  'sessionkitTouch',
  `
local believed = ARGV[2] .. ' '
local text = redis.call('GETRANGE', KEYS[1], 0, 84 + #believed)
local us, now = clock()
if text == '' or not live(text, now) then return { -1 } end
if string.sub(text, 86) ~= believed then return { 2, user(redis.call('GET', KEYS[1])) } end
local access = lastAccess(text)
if now - access < tonumber(ARGV[3]) then return { 1, version(text), access, now } end
local ends = deadline(now, idleTimeout(text), absoluteDeadline(text))
redis.call('SETRANGE', KEYS[1], 31, string.format('%013.0f', now))
if ends > 0 then redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', ends + GRACE)) end
if KEYS[3] then
  redis.call('ZADD', KEYS[3], now, ARGV[1])
  prolong(KEYS[3], ends, now)
end
prolong(KEYS[2], ends, now)
return { 1, version(text), now, now }
`,
);

/**
 * Ends up to some hundred sessions of one partition.
 * KEYS: deadlines, then for each session its record, then for each its user index (the deadlines key where anonymous).
 * ARGV: channel, origin, then for each session its id, then for each the encoded user the caller believes in.
 * Replies one item per session: 1 ended, 0 was not there, or the encoded user when that is another one (not ended).
 */
export const DESTROY = script(
  'sessionkitDestroy',
  `
local us, now = clock()
local count = (#KEYS - 1) / 2
local replies = {}
for i = 1, count do
  local key, id, believed = KEYS[1 + i], ARGV[2 + i], ARGV[2 + count + i]
  local userKey = nil
  if believed ~= '' then userKey = KEYS[1 + count + i] end
  local text = redis.call('GET', key)
  local actual = believed
  if text and string.byte(text) == 49 then actual = user(text) end
  if actual ~= believed then
    replies[i] = actual
  else
    announce(ARGV[1], 'destroy', id, us, ARGV[2])
    if text then redis.call('DEL', key) end
    delist(KEYS[1], userKey, id, believed)
    replies[i] = live(text, now) and 1 or 0
  end
end
return replies
`,
);

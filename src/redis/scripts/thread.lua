-- Put before every script on one thread.
--
-- KEYS  1 thread (hash)  2 messages (list)  3 system (hash)  4 ids (hash)  5 ids:old (hash)  6 tombstone (string)
--       7 changes (stream)
-- ARGV  1 the latest moment at which to write, in ms of this server's clock; 0: none
-- Answers begin with a word: OK and what the script says on top, or why nothing was written; then the present ms.
--
-- Redis has no rollback, so every script reads and checks all its keys before its first write. Only a first write can
-- be refused for lack of memory (later ones of the same script never are), so nothing half-happens.
local THREAD, MESSAGES, SYSTEM, IDS, IDS_OLD, TOMBSTONE, CHANGES = unpack(KEYS)
-- What expires with the thread.
local LIVING = {THREAD, MESSAGES, SYSTEM, IDS, IDS_OLD, CHANGES}
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local NOW = clock()
if tonumber(ARGV[1]) > 0 and NOW > tonumber(ARGV[1]) then return {'LATE', NOW} end

local NUMBERS = {
  'revision', 'first_seq', 'last_seq', 'count', 'tokens', 'bytes', 'system_bytes', 'kept', 'kept_first',
  'kept_bytes', 'edited', 'changed', 'ttl', 'pinned', 'trim_messages', 'created', 'updated', 'indexed',
}

-- Reads the thread as a table; nil if there is none. Touches every key, so that a wrong type fails before any write.
local function read_thread()
  local flat = redis.call('HGETALL', THREAD)
  local listed = redis.call('LLEN', MESSAGES)
  local instructions = redis.call('HLEN', SYSTEM)
  local known = redis.call('HLEN', IDS) + redis.call('HLEN', IDS_OLD)
  redis.call('STRLEN', TOMBSTONE)
  redis.call('XLEN', CHANGES)
  if #flat == 0 then return nil end
  local t = {}
  for i = 1, #flat, 2 do t[flat[i]] = flat[i + 1] end
  t.changed = t.changed or 0
  for _, name in ipairs(NUMBERS) do
    t[name] = tonumber(t[name])
    -- Not a number, not whole, or beyond what is whole in a double: infinities are numbers, too.
    local n = t[name]
    if not n or n ~= math.floor(n) or math.abs(n) > 9007199254740992 then return nil, {'CORRUPT', NOW, THREAD} end
  end
  -- Stays a text: a caller's number may be larger than Lua's are exact.
  if not tonumber(t.trim_bytes) or not t.epoch then return nil, {'CORRUPT', NOW, THREAD} end
  -- An eviction takes whole keys.
  if listed ~= t.last_seq - t.first_seq + 1 then return nil, {'CORRUPT', NOW, MESSAGES} end
  if instructions < t.kept then return nil, {'CORRUPT', NOW, SYSTEM} end
  if known < t.count then return nil, {'CORRUPT', NOW, IDS} end
  return t
end

-- A thread as one reply: texts and whole numbers alone, which JSON keeps. As a list it would cost a third of an append.
-- JSON here writes 14 digits, which a sum may exceed.
local function describe(t)
  t.tokens, t.bytes = string.format('%.0f', t.tokens), string.format('%.0f', t.bytes)
  return cjson.encode(t)
end

local function etag(t) return '"' .. t.epoch .. '-' .. t.revision .. '"' end

-- Gives every key of the thread the same expiry, one ttl from now, or none if it is pinned; answers it, 0 for none.
local function renew(t)
  if t.pinned == 1 then
    for _, key in ipairs(LIVING) do redis.call('PERSIST', key) end
    return 0
  end
  local at = NOW + t.ttl
  for _, key in ipairs(LIVING) do redis.call('PEXPIREAT', key, at) end
  return at
end

-- The expiry as it is, exactly: not read across the edge of a millisecond; 0 for none.
local function expiry()
  while true do
    local before = clock()
    local left = redis.call('PTTL', THREAD)
    if left < 0 then return 0 end
    if clock() == before then return before + left end
  end
end

-- An entry is: version, commit time (8 bytes, ms), checksum (4), role, flags, tokens (4), size (4), id, tools, payload.
-- Empty entries are holes that a truncation left. Answers tokens and size.
local function weigh(entry)
  if #entry < 23 then return 0, 0 end
  return struct.unpack('>I4I4', entry, 16)
end

-- The message id in an entry; nil in a hole.
local function id_of(entry)
  if #entry < 25 then return nil end
  return string.sub(entry, 25, 24 + string.byte(entry, 24))
end

-- Write requests that were carried out, the newest `most` first, as a text of `kind:id` with a space before and behind
-- each.
local function was_requested(t, request)
  return request ~= '' and string.find(t.requests or ' ', ' ' .. request .. ' ', 1, true) ~= nil
end

local function remember_request(t, request, most)
  if request == '' then return end
  local kept = ' ' .. request .. ' '
  local n = 1
  for known in string.gmatch(t.requests or '', '%S+') do
    if n == most then break end
    kept = kept .. known .. ' '
    n = n + 1
  end
  t.requests = kept
end

-- Writes the fields that most writes change. `edited` is the revision that last did more than append.
local function save(t)
  redis.call('HSET', THREAD, 'revision', t.revision, 'first_seq', t.first_seq, 'last_seq', t.last_seq,
    'count', t.count, 'tokens', t.tokens, 'bytes', t.bytes, 'system_bytes', t.system_bytes, 'kept', t.kept,
    'kept_first', t.kept_first, 'kept_bytes', t.kept_bytes, 'edited', t.edited, 'updated', t.updated,
    'indexed', t.indexed)
end

-- Notes a change that is no append, for those who watch the thread, under its revision: fields and values that say
-- what it was, and `after`, the revision of the change noted before it, so that a gap shows. The newest `most` are kept.
-- `changed` is the newest; the script's first write is another one, with `changed` in it. The key is given its expiry
-- afterwards.
local function note_change(t, most, ...)
  local id = string.format('%.0f-0', t.revision)
  local noted = redis.pcall('XADD', CHANGES, 'MAXLEN', '=', most, id, 'after', t.changed, ...)
  if type(noted) == 'table' and noted.err then
    -- Something later is there, which is of no past of this thread.
    redis.call('UNLINK', CHANGES)
    redis.call('XADD', CHANGES, id, 'after', t.changed, ...)
  end
  t.changed = t.revision
end

-- Seq of the newest stored message; 0 when there is none.
local function last_stored(t)
  local to = t.last_seq - t.first_seq
  while to >= 0 do
    local from = math.max(0, to - 127)
    local entries = redis.call('LRANGE', MESSAGES, from, to)
    for i = #entries, 1, -1 do
      if entries[i] ~= '' then return t.first_seq + from + i - 1 end
    end
    to = from - 1
  end
  local last = 0
  for _, seq in ipairs(redis.call('HKEYS', SYSTEM)) do
    if tonumber(seq) < t.first_seq then last = math.max(last, tonumber(seq)) end
  end
  return last
end

-- Accounts for an entry that left the list; one that is kept as an instruction stays stored.
local function account_dropped(t, seq, entry)
  if entry == '' then return end
  local tokens, size = weigh(entry)
  if redis.call('HEXISTS', SYSTEM, seq) == 1 then
    if t.kept == 0 then t.kept_first = seq end
    t.kept = t.kept + 1
    t.kept_bytes = t.kept_bytes + size
  else
    t.count = t.count - 1
    t.tokens = t.tokens - tokens
    t.bytes = t.bytes - size
  end
end

local function drop_oldest(t)
  local entry = redis.call('LPOP', MESSAGES)
  t.first_seq = t.first_seq + 1
  account_dropped(t, t.first_seq - 1, entry)
end

-- The list never begins with a hole.
local function drop_leading_holes(t)
  while t.first_seq <= t.last_seq and redis.call('LINDEX', MESSAGES, 0) == '' do
    redis.call('LPOP', MESSAGES)
    t.first_seq = t.first_seq + 1
  end
end

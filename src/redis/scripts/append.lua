-- Appends messages, all or none; creates the thread if it may.
--
-- ARGV  2 mode: append (to what is there), ensure (create if there is none), create (fail if there is one), repeat
--         (as create, but create nothing); for what was accepted without Redis: replay (to what is there), revive (create
--         if there is none), without limits and each message with the commit time before its entry
--       3 etag, empty for any  4 owner, empty for any  5 most messages  6 most bytes in a thread
--       7 most instructions kept  8 most bytes of them  9 ids remembered at least  10 the creation's request id; for what
--         was accepted without Redis, what is known of the thread, as JSON: `epoch`, the highest `revision` that was
--         acknowledged in it, the `owner` that it must have (absent: any), a new `ttl` (absent: none), `repair` where all of
--         it was acknowledged, so that it belongs into no other incarnation
--       11 ms by which the index may lag behind the last activity
--       12 number of the following arguments that are the new thread's fields and values
--       then for each message: id, digest, whether an instruction (0, 1), tokens, size, entry behind the commit time
-- OK    expiry, last_seq before, whether the index is due, seqs, duplicates (0, 1), thread
-- else  ABSENT, EXISTS, DELETED, OWNER, REUSED id, ETAG etag, LIMIT what limit, CORRUPT key; DROPPED (the epoch was
--       deleted, or for a repair is another), BEHIND expiry thread (acknowledged revisions are missing)
local mode, given_etag, owner = ARGV[2], ARGV[3], ARGV[4]
local max_messages, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local max_system, max_system_bytes, min_ids = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local fields = tonumber(ARGV[12])
local FIRST = 13 + fields
local MESSAGE = 6

local t, corrupt = read_thread()
if corrupt then return corrupt end
local existed = t ~= nil
local repeated = false
local known
if mode == 'replay' or mode == 'revive' then
  known = cjson.decode(ARGV[10])
  for epoch in string.gmatch(redis.call('GET', TOMBSTONE) or '', '([^%s:]+):%S*') do
    if epoch == known.epoch then return {'DROPPED', NOW} end
  end
  if existed then
    if known.owner and known.owner ~= (t.owner or '') then return {'OWNER', NOW} end
    local is_same = t.epoch == known.epoch
    -- Up to which revision is what was acknowledged still there, in this epoch or in a former one of this thread?
    local reached = is_same and t.revision or known.revision
    local is_former = false
    for epoch, revision in string.gmatch(t.former or '', '([^%s:]+):(%d+)') do
      if epoch == known.epoch then is_former, reached = true, tonumber(revision) end
    end
    if reached < known.revision then return {'BEHIND', NOW, expiry(), describe(t)} end
    if known.repair and not is_same and not is_former then return {'DROPPED', NOW} end
    if not is_same then known.ttl = nil end
  end
end
if existed then
  if mode == 'create' or mode == 'repeat' then
    if ARGV[10] == '' or t.create_request ~= ARGV[10] then return {'EXISTS', NOW} end
    repeated = true
  elseif owner ~= '' and owner ~= (t.owner or '') then
    return {'OWNER', NOW}
  end
else
  if mode == 'append' or mode == 'repeat' or mode == 'replay' or given_etag ~= '' then return {'ABSENT', NOW} end
  if mode == 'ensure' and redis.call('EXISTS', TOMBSTONE) == 1 then return {'DELETED', NOW} end
  t = {
    revision = 0, first_seq = 1, last_seq = 0, count = 0, tokens = 0, bytes = 0, system_bytes = 0, kept = 0,
    kept_first = 0, kept_bytes = 0, edited = 0, changed = 0, created = NOW, updated = NOW, indexed = NOW,
  }
  for i = 13, FIRST - 1, 2 do t[ARGV[i]] = ARGV[i + 1] end
  for _, name in ipairs({'ttl', 'pinned', 'trim_messages', 'created'}) do t[name] = tonumber(t[name]) end
end
local trim_bytes = tonumber(t.trim_bytes)

-- Which messages are here already?
local ids = {}
for i = FIRST, #ARGV, MESSAGE do ids[#ids + 1] = ARGV[i] end
local newer, older = {}, {}
if existed and #ids > 0 then
  newer = redis.call('HMGET', IDS, unpack(ids))
  older = redis.call('HMGET', IDS_OLD, unpack(ids))
end
local seqs, duplicates, fresh, seen = {}, {}, {}, {}
local next_seq, new_tokens, new_bytes = t.last_seq + 1, 0, 0
for n, id in ipairs(ids) do
  local at = FIRST + (n - 1) * MESSAGE
  local digest = ARGV[at + 1]
  local used = seen[id] or newer[n] or older[n]
  if used then
    local seq, used_digest = string.match(used, '^(%d+) (%x+)$')
    if not seq then return {'CORRUPT', NOW, IDS} end
    if used_digest ~= digest then return {'REUSED', NOW, id} end
    seqs[n], duplicates[n] = tonumber(seq), 1
  else
    if repeated then return {'EXISTS', NOW} end
    seqs[n], duplicates[n] = next_seq, 0
    seen[id] = next_seq .. ' ' .. digest
    fresh[#fresh + 1] = at
    next_seq = next_seq + 1
    new_tokens = new_tokens + tonumber(ARGV[at + 3])
    new_bytes = new_bytes + tonumber(ARGV[at + 4])
  end
end
if repeated then return {'OK', NOW, expiry(), t.last_seq, 0, seqs, duplicates, describe(t)} end

if existed and known and known.ttl then
  t.ttl = known.ttl
  redis.call('HSET', THREAD, 'ttl', t.ttl)
end
if #fresh > 0 and not known then
  if given_etag ~= '' and given_etag ~= etag(t) then return {'ETAG', NOW, etag(t)} end
  if t.trim_messages == 0 and t.count + #fresh > max_messages then return {'LIMIT', NOW, 'messages', max_messages} end
  if trim_bytes == 0 and t.bytes + new_bytes > max_bytes then return {'LIMIT', NOW, 'bytes', max_bytes} end
elseif #fresh == 0 and existed then
  return {'OK', NOW, renew(t), t.last_seq, 0, seqs, duplicates, describe(t)}
end

-- From here on it writes.
local previous = t.last_seq
if not existed then
  redis.call('HSET', THREAD, 'created', NOW, unpack(ARGV, 13, FIRST - 1))
  -- What an evicted thread left behind is not this thread's.
  redis.call('UNLINK', MESSAGES, SYSTEM, IDS, IDS_OLD, CHANGES)
end
if #fresh > 0 then
  local entries, id_fields, system_fields = {}, {}, {}
  local instructions = redis.call('HLEN', SYSTEM)
  local commit_time = struct.pack('>I8', NOW)
  for n, at in ipairs(fresh) do
    local seq = previous + n
    local entry = '\1' .. (known and '' or commit_time) .. ARGV[at + 5]
    entries[n] = entry
    id_fields[#id_fields + 1] = ARGV[at]
    id_fields[#id_fields + 1] = seen[ARGV[at]]
    local size = tonumber(ARGV[at + 4])
    if ARGV[at + 2] == '1' and instructions < max_system and t.system_bytes + size <= max_system_bytes then
      instructions = instructions + 1
      t.system_bytes = t.system_bytes + size
      system_fields[#system_fields + 1] = seq
      system_fields[#system_fields + 1] = entry
    end
  end
  redis.call('RPUSH', MESSAGES, unpack(entries))
  redis.call('HSET', IDS, unpack(id_fields))
  if #system_fields > 0 then redis.call('HSET', SYSTEM, unpack(system_fields)) end
  t.last_seq = previous + #fresh
  t.count = t.count + #fresh
  t.tokens = t.tokens + new_tokens
  t.bytes = t.bytes + new_bytes
end

local oldest = t.first_seq
-- The newest message always stays; instructions that outlived trimming do not count.
while t.first_seq < t.last_seq
  and ((t.trim_messages > 0 and t.count - t.kept > t.trim_messages)
    or (trim_bytes > 0 and t.bytes - t.kept_bytes > trim_bytes)) do
  drop_oldest(t)
end
drop_leading_holes(t)
if t.first_seq ~= oldest then t.edited = t.revision + 1 end

-- Ids are remembered for two generations. Those of messages that are still stored are carried over: of instructions
-- that outlived trimming, and of the oldest messages where truncated tails filled a generation.
local function begin_generation()
  local carried = {}
  local function carry(entry)
    local id = id_of(entry)
    if not id then return true end
    local known = redis.call('HGET', IDS_OLD, id)
    if not known then return false end
    carried[#carried + 1] = id
    carried[#carried + 1] = known
    return true
  end
  for _, entry in ipairs(redis.call('HVALS', SYSTEM)) do carry(entry) end
  local slots, at, is_older = t.last_seq - t.first_seq + 1, 0, true
  while is_older and at < slots do
    for _, entry in ipairs(redis.call('LRANGE', MESSAGES, at, at + 63)) do
      is_older = is_older and carry(entry)
    end
    at = at + 64
  end
  redis.call('UNLINK', IDS_OLD)
  redis.call('RENAME', IDS, IDS_OLD)
  for from = 1, #carried, 200 do
    redis.call('HSET', IDS_OLD, unpack(carried, from, math.min(#carried, from + 199)))
  end
end
if redis.call('HLEN', IDS) >= math.max(min_ids, t.count, t.trim_messages) then begin_generation() end

t.revision = t.revision + 1
t.updated = NOW
local index_is_due = 0
if existed and NOW - t.indexed >= tonumber(ARGV[11]) then
  index_is_due = 1
  t.indexed = NOW
end
save(t)
return {'OK', NOW, renew(t), previous, index_is_due, seqs, duplicates, describe(t)}

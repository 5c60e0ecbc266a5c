-- Drops the tail or the head of a thread; the time to live runs on.
--
-- ARGV  2 etag, empty for any  3 request, empty for none  4 after (drop larger seqs) or keep (the newest so many)  5 n
--       6 most requests remembered  7 most changes noted
-- OK    expiry, thread
-- else  ABSENT, ETAG etag, RANGE field last_seq, CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
local at = expiry()
if was_requested(t, ARGV[3]) then return {'OK', NOW, at, describe(t)} end
if ARGV[2] ~= '' and ARGV[2] ~= etag(t) then return {'ETAG', NOW, etag(t)} end
local n = tonumber(ARGV[5])
if ARGV[4] == 'after' and n > t.last_seq then return {'RANGE', NOW, 'after_seq', t.last_seq} end

local slots = t.last_seq - t.first_seq + 1

-- Adds up the messages in a range of the list: how many, their tokens and bytes.
local function add_up(from, to)
  local count, tokens, bytes = 0, 0, 0
  for a = from, to, 128 do
    for _, entry in ipairs(redis.call('LRANGE', MESSAGES, a, math.min(to, a + 127))) do
      if entry ~= '' then
        local entry_tokens, size = weigh(entry)
        count, tokens, bytes = count + 1, tokens + entry_tokens, bytes + size
      end
    end
  end
  return count, tokens, bytes
end

-- What the kept instructions weigh.
local function add_up_kept(flat)
  local count, tokens, bytes, first = 0, 0, 0, 0
  for i = 1, #flat, 2 do
    local seq = tonumber(flat[i])
    if seq < t.first_seq then
      local entry_tokens, size = weigh(flat[i + 1])
      count, tokens, bytes = count + 1, tokens + entry_tokens, bytes + size
      if first == 0 or seq < first then first = seq end
    end
  end
  return count, tokens, bytes, first
end

-- Index of the oldest of the newest n listed messages.
local function index_of_newest(wanted)
  local found = 0
  for index = slots - 1, 0, -1 do
    if redis.call('LINDEX', MESSAGES, index) ~= '' then
      found = found + 1
      if found == wanted then return index end
    end
  end
  return 0
end

-- Everything is read and decided before the first write.
local system = redis.call('HGETALL', SYSTEM)
local _, kept_tokens = add_up_kept(system)
local listed = t.count - t.kept
local from, to = 0, slots - 1           -- the range of the list that stays; empty if to < from
local lowest_kept, highest = 0, t.last_seq  -- instructions stay from here to there
if ARGV[4] == 'after' then
  to = math.min(to, n - t.first_seq)
  highest = n
elseif n < listed then
  from = slots
  if n > 0 then
    from = slots - n
    if listed ~= slots then from = index_of_newest(n) end
  end
  lowest_kept = t.first_seq + from
elseif n < t.count then
  local kept = {}
  for i = 1, #system, 2 do
    if tonumber(system[i]) < t.first_seq then kept[#kept + 1] = tonumber(system[i]) end
  end
  table.sort(kept)
  lowest_kept = kept[#kept - (n - listed) + 1] or t.first_seq
end

-- The smaller part is added up.
local count, tokens, bytes = 0, 0, 0
if to >= from then
  if (to - from + 1) * 2 <= slots then
    count, tokens, bytes = add_up(from, to)
  else
    count, tokens, bytes = listed, t.tokens - kept_tokens, t.bytes - t.kept_bytes
    for _, range in ipairs({{0, from - 1}, {to + 1, slots - 1}}) do
      local less_count, less_tokens, less_bytes = add_up(range[1], range[2])
      count, tokens, bytes = count - less_count, tokens - less_tokens, bytes - less_bytes
    end
  end
end

-- From here on it writes. The first one frees memory, so that a truncation also works when memory is full.
if to < from then
  redis.call('UNLINK', MESSAGES)
  t.first_seq = t.last_seq + 1
elseif from > 0 or to < slots - 1 then
  redis.call('LTRIM', MESSAGES, from, to)
  t.first_seq = t.first_seq + from
  local holes = t.last_seq - t.first_seq - (to - from)
  while holes > 0 do
    local some = {}
    for i = 1, math.min(holes, 1000) do some[i] = '' end
    redis.call('RPUSH', MESSAGES, unpack(some))
    holes = holes - #some
  end
end
local left = {}
t.system_bytes = 0
for i = 1, #system, 2 do
  local seq = tonumber(system[i])
  if seq < lowest_kept or seq > highest then
    redis.call('HDEL', SYSTEM, system[i])
  else
    left[#left + 1] = system[i]
    left[#left + 1] = system[i + 1]
    local _, size = weigh(system[i + 1])
    t.system_bytes = t.system_bytes + size
  end
end
drop_leading_holes(t)
local kept
kept, kept_tokens, t.kept_bytes, t.kept_first = add_up_kept(left)
t.kept = kept
t.count, t.tokens, t.bytes = count + kept, tokens + kept_tokens, bytes + t.kept_bytes
t.revision = t.revision + 1
t.edited = t.revision
t.updated = NOW
remember_request(t, ARGV[3], tonumber(ARGV[6]))
redis.call('HSET', THREAD, 'requests', t.requests or ' ', 'changed', t.revision)
save(t)
local first = 0
if t.count > 0 then first = t.kept > 0 and t.kept_first or t.first_seq end
note_change(t, ARGV[7], 'first_seq', first, 'last_seq', last_stored(t), 'listed_from', t.first_seq)
-- A log that begins now has no expiry yet.
if at > 0 then
  for _, key in ipairs(LIVING) do redis.call('PEXPIREAT', key, at) end
end
return {'OK', NOW, at, describe(t)}

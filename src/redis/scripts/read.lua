-- Reads a thread and, if asked, some of its messages.
--
-- ARGV  2 renew (0, 1)  3 epoch that must be the thread's, empty for any  4 revision of the last change that was no append, -1 for any
--       5 after seq  6 before seq, 0 for none  7 descending (0, 1)  8 most messages, 0 for none at all
--       9 most bytes  10 most tokens, 0 for no limit  11 instructions too (0, 1)
-- OK    expiry, thread, {seq, entry, …} in the order asked for, whether more follow, {seq, instruction, …}
-- else  ABSENT, STALE (another epoch or change), RANGE field last_seq, CORRUPT key
local after, before = tonumber(ARGV[5]), tonumber(ARGV[6])
local descending, limit = ARGV[7] == '1', tonumber(ARGV[8])
local max_bytes, max_tokens = tonumber(ARGV[9]), tonumber(ARGV[10])

local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
if ARGV[3] ~= '' and ARGV[3] ~= t.epoch then return {'STALE', NOW} end
if ARGV[4] ~= '-1' and tonumber(ARGV[4]) ~= t.edited then return {'STALE', NOW} end
if after > t.last_seq then return {'RANGE', NOW, 'after_seq', t.last_seq} end
if before > t.last_seq + 1 then return {'RANGE', NOW, 'before_seq', t.last_seq} end

local page, n, bytes, tokens, more = {}, 0, 0, 0, 0
-- Takes an entry if there is room; answers whether to go on.
local function take(seq, entry)
  if entry == '' then return true end
  local entry_tokens, size = weigh(entry)
  if n == limit or (n > 0 and (bytes + size > max_bytes or (max_tokens > 0 and tokens >= max_tokens))) then
    more = 1
    return false
  end
  n = n + 1
  bytes = bytes + size
  tokens = tokens + entry_tokens
  page[2 * n - 1], page[2 * n] = seq, entry
  return true
end

local low = after + 1
local high = t.last_seq
if before > 0 then high = math.min(high, before - 1) end

-- Instructions that outlived trimming are in no list any more.
local function take_kept()
  if t.kept == 0 or low >= t.first_seq then return true end
  local flat, kept, entries = redis.call('HGETALL', SYSTEM), {}, {}
  for i = 1, #flat, 2 do
    local seq = tonumber(flat[i])
    if seq < t.first_seq and seq >= low and seq <= high then
      kept[#kept + 1] = seq
      entries[seq] = flat[i + 1]
    end
  end
  table.sort(kept, function(a, b) if descending then return a > b end return a < b end)
  for _, seq in ipairs(kept) do
    if not take(seq, entries[seq]) then return false end
  end
  return true
end

-- Reads few at a time: messages differ in size, up to 2 MiB.
local function take_listed()
  local from, to = math.max(low, t.first_seq), high
  while from <= to do
    local slice = math.min(32, math.max(8, limit - n + 1))
    local a, b = from, math.min(to, from + slice - 1)
    if descending then a, b = math.max(from, to - slice + 1), to end
    local entries = redis.call('LRANGE', MESSAGES, a - t.first_seq, b - t.first_seq)
    local first, last, step = 1, #entries, 1
    if descending then first, last, step = #entries, 1, -1 end
    for i = first, last, step do
      if not take(a + i - 1, entries[i]) then return false end
    end
    if descending then to = a - 1 else from = b + 1 end
  end
  return true
end

if limit > 0 then
  if descending then
    if take_listed() then take_kept() end
  elseif take_kept() then
    take_listed()
  end
end
local instructions = {}
if ARGV[11] == '1' then instructions = redis.call('HGETALL', SYSTEM) end

local at
if ARGV[2] == '1' then at = renew(t) else at = expiry() end
return {'OK', NOW, at, describe(t), page, more, instructions}

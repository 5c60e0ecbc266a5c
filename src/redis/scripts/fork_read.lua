-- Reads a slice of a thread to be copied, of about 1 MiB. Appends meanwhile do not matter, other changes do.
--
-- ARGV  2 epoch, empty for any  3 revision of the last change that was no append  4 from seq, 0 for the first slice
--       5 to seq, 0 for all  6 most entries in the slice
-- OK    expiry, thread, seq of the first slot, slots (holes are empty), {id, seq and digest, …},
--       {seq, instruction, …} (with the first slice)
-- else  ABSENT, STALE, RANGE field last_seq, CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
if ARGV[2] ~= '' and (ARGV[2] ~= t.epoch or tonumber(ARGV[3]) ~= t.edited) then return {'STALE', NOW} end
local to = tonumber(ARGV[5])
if to > t.last_seq then return {'RANGE', NOW, 'at_seq', t.last_seq} end
if to == 0 then to = t.last_seq end
local from = math.max(tonumber(ARGV[4]), t.first_seq)

-- Messages differ in size, so few are read at a time.
local most, bytes, slots, n, at = tonumber(ARGV[6]), 0, {}, 0, from
while at <= to and n < most and bytes < 1048576 do
  local last = math.min(to, at + 7)
  for _, entry in ipairs(redis.call('LRANGE', MESSAGES, at - t.first_seq, last - t.first_seq)) do
    n = n + 1
    slots[n] = entry
    bytes = bytes + #entry
  end
  at = last + 1
end
local ids = {}
local function add_id(entry)
  local id = id_of(entry)
  if not id then return end
  local known = redis.call('HGET', IDS, id) or redis.call('HGET', IDS_OLD, id)
  if known then
    ids[#ids + 1] = id
    ids[#ids + 1] = known
  end
end
for _, entry in ipairs(slots) do add_id(entry) end
local instructions = {}
if ARGV[4] == '0' then
  local flat = redis.call('HGETALL', SYSTEM)
  for i = 1, #flat, 2 do
    local seq = tonumber(flat[i])
    if seq <= to then
      instructions[#instructions + 1] = flat[i]
      instructions[#instructions + 1] = flat[i + 1]
      if seq < t.first_seq then add_id(flat[i + 1]) end
    end
  end
end
return {'OK', NOW, expiry(), describe(t), from, slots, ids, instructions}

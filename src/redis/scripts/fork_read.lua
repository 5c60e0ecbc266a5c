-- Reads a slice of a thread to be copied.
--
-- ARGV  2 epoch, empty for any  3 revision, 0 for any  4 from seq, 0 for the first slice  5 to seq, 0 for all
--       6 most entries in the slice
-- OK    expiry, thread, seq of the first slot, slots (holes are empty), {id, seq and digest, …},
--       {seq, instruction, …} (with the first slice)
-- else  ABSENT, STALE, RANGE field last_seq, CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
if ARGV[2] ~= '' and (ARGV[2] ~= t.epoch or tonumber(ARGV[3]) ~= t.revision) then return {'STALE', NOW} end
local to = tonumber(ARGV[5])
if to > t.last_seq then return {'RANGE', NOW, 'at_seq', t.last_seq} end
if to == 0 then to = t.last_seq end
local from = math.max(tonumber(ARGV[4]), t.first_seq)

local most = tonumber(ARGV[6])
if t.count > 0 then most = math.max(1, math.min(most, math.floor(1048576 * t.count / (t.bytes + 1)))) end
local slots = {}
if from <= to then
  slots = redis.call('LRANGE', MESSAGES, from - t.first_seq, math.min(to, from + most - 1) - t.first_seq)
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

-- Adds a slice to a copy in the making; what is never finished expires.
--
-- KEYS  1 messages (list)  2 system (hash)  3 ids (hash), all of the copy in the making
-- ARGV  1 life in s  2 number of slots  3 number of the following instruction fields and values
--       then the slots, the instructions, and the ids with their values
-- OK    (nothing)
local slots, instructions = tonumber(ARGV[2]), tonumber(ARGV[3])
local function write(command, key, from, to)
  for a = from, to, 200 do redis.call(command, key, unpack(ARGV, a, math.min(to, a + 199))) end
end
write('RPUSH', KEYS[1], 4, 3 + slots)
write('HSET', KEYS[2], 4 + slots, 3 + slots + instructions)
write('HSET', KEYS[3], 4 + slots + instructions, #ARGV)
for i = 1, 3 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return {'OK', 0}

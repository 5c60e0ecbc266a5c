-- Moves or removes an index entry that nobody has moved since it was read.
--
-- KEYS  1 index (zset)
-- ARGV  1 member  2 the score that was read  3 the new score; empty to remove
-- OK    whether it did (0, 1)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) ~= tonumber(ARGV[2]) then return {'OK', 0, 0} end
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
end
return {'OK', 0, 1}

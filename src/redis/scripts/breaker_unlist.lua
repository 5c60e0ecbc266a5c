-- Takes a breaker that has no state any more off the list, if it still stands there as it was read, and was listed long
-- enough ago: an instance that is about to make it again has listed it.
--
-- KEYS  1 list (zset)      ARGV  1 model key  2 score that was read  3 ms that it must have been there
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) == tonumber(ARGV[2]) and NOW - score >= tonumber(ARGV[3]) then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0

-- Forgets a breaker, its settings and its history.
--
-- KEYS  1 state  2 window  3 leases  4 settings  5 log      ARGV  1 the latest moment at which to write
-- OK    or LATE
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(ARGV[1]) > 0 and NOW > tonumber(ARGV[1]) then return {'LATE', NOW} end
redis.call('UNLINK', unpack(KEYS))
return {'OK', NOW}

-- Reads how a breaker stands. Writes nothing.
--
-- ARGV  7 whether the history is wanted (0, 1)
-- OK    core, rest, totals; then, if wanted: newest log entry (none or one), ids of operators' requests
local core, rest, totals = tell()
if ARGV[7] == '0' then return {'OK', NOW, core, rest, totals} end
local newest = {}
if epoch ~= '' then newest = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1) end
return {'OK', NOW, core, rest, totals, newest, redis.call('HGET', STATE, 'requests') or ''}

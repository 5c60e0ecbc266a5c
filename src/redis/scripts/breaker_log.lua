-- Reads a breaker's log after a generation.
--
-- KEYS  1 state (hash)  2 log (stream)      ARGV  1 generation  2 most entries
-- OK    epoch, empty for none; entries
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = redis.call('HGET', KEYS[1], 'epoch') or ''
local entries = {}
if epoch ~= '' then entries = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2]) end
return {'OK', NOW, epoch, entries}

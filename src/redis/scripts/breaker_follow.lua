-- Reads a breaker back with the newest changes of its log. Writes nothing.
--
-- ARGV  7 epoch of the position after which to read, perhaps empty  8 its generation  9 most entries
-- OK    core, rest, totals, entries (newest first: those after the position, and the one at it, if that is of this
--       epoch; else as many as there may be; always the very newest), ms until the state expires (-1: never, -2: there is none)
local core, rest, totals = tell()
local entries = {}
if epoch ~= '' then
  local most = tonumber(ARGV[9])
  if ARGV[7] == epoch then most = math.max(1, math.min(most, generation - tonumber(ARGV[8]) + 1)) end
  entries = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', most)
end
return {'OK', NOW, core, rest, totals, entries, redis.call('PTTL', STATE)}

-- Stores a breaker's settings for the whole fleet, or forgets them.
--
-- KEYS  1 settings (hash)
-- ARGV  1 the latest moment at which to write  2 revision expected, empty for none  3 the new revision, empty to forget
--       then names and values
-- OK    whether it happened (0, 1)
-- else  LATE
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(ARGV[1]) > 0 and NOW > tonumber(ARGV[1]) then return {'LATE', NOW} end
local revision = redis.call('HGET', KEYS[1], 'revision') or ''
if revision ~= ARGV[2] then
  -- The same request again, after an answer that was lost.
  return {'OK', NOW, ARGV[3] ~= '' and revision == ARGV[3] and 1 or 0}
end
if ARGV[3] == '' then
  redis.call('UNLINK', KEYS[1])
else
  -- Made anew under its name in one step: what is not set now is not set.
  local old = redis.call('HKEYS', KEYS[1])
  redis.call('HSET', KEYS[1], 'revision', unpack(ARGV, 3))
  local kept = {revision = true}
  for i = 4, #ARGV, 2 do kept[ARGV[i]] = true end
  for _, name in ipairs(old) do
    if not kept[name] then redis.call('HDEL', KEYS[1], name) end
  end
end
return {'OK', NOW, 1}

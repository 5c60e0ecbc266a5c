-- Notes a thread in one index.
--
-- KEYS  1 index (zset)
-- ARGV  1 member  2 score in ms; `+inf` for never; with a `+` before it so many ms from now
--       3 GT to never move it back, else empty
-- OK    (nothing)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local score = ARGV[2]
if score ~= '+inf' and string.sub(score, 1, 1) == '+' then score = now + tonumber(score) end
if ARGV[3] == 'GT' then
  redis.call('ZADD', KEYS[1], 'GT', score, ARGV[1])
else
  redis.call('ZADD', KEYS[1], score, ARGV[1])
end
return {'OK', now}

-- Renews or gives back a lease that is still ours.
--
-- KEYS  1 lease (string)
-- ARGV  1 our token  2 life in ms from now on; 0 gives it back
-- OK    whether it was ours (0, 1)
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'OK', 0, 0} end
if ARGV[2] == '0' then
  redis.call('UNLINK', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return {'OK', 0, 1}

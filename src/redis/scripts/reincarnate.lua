-- Gives a thread another epoch, unless it was changed since it was read.
--
-- ARGV  2 epoch and  3 revision that it had  4 the new epoch
-- OK    expiry, thread
-- else  ABSENT, CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
if t.epoch == ARGV[2] and t.revision == tonumber(ARGV[3]) then
  t.epoch, t.changed = ARGV[4], t.revision
  redis.call('HSET', THREAD, 'epoch', t.epoch, 'changed', t.changed)
  -- What was noted may tell of lost writes, and an epoch has no past.
  redis.call('UNLINK', CHANGES)
end
return {'OK', NOW, expiry(), describe(t)}

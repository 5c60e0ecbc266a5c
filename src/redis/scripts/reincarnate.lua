-- Gives a thread another epoch, unless it was changed since it was read.
--
-- ARGV  2 epoch and  3 revision that it had  4 the new epoch
-- Field `former` keeps the last 8 as `epoch:revision`, the revision up to which that epoch was found, with a space between:
-- whoever was told of a higher one knows what was lost.
-- OK    expiry, thread
-- else  ABSENT, CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
if t.epoch == ARGV[2] and t.revision == tonumber(ARGV[3]) then
  local former, n = t.epoch .. ':' .. string.format('%.0f', t.revision), 1
  for known in string.gmatch(t.former or '', '%S+') do
    if n == 8 then break end
    former = former .. ' ' .. known
    n = n + 1
  end
  t.epoch, t.changed, t.former = ARGV[4], t.revision, former
  redis.call('HSET', THREAD, 'epoch', t.epoch, 'changed', t.changed, 'former', t.former)
  -- What was noted may tell of lost writes, and an epoch has no past.
  redis.call('UNLINK', CHANGES)
end
return {'OK', NOW, expiry(), describe(t)}

-- Looks whether an indexed thread is still there and gives it back an expiry that it lost.
--
-- OK    expiry, whether it is there, whether it was repaired, time of last activity
-- else  CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then
  -- Without the thread its other keys are nobody's.
  redis.call('UNLINK', MESSAGES, SYSTEM, IDS, IDS_OLD, CHANGES)
  return {'OK', NOW, 0, 0, 0, 0}
end
local repaired = 0
for _, key in ipairs(LIVING) do
  if t.pinned == 0 and redis.call('PTTL', key) == -1 then repaired = 1 end
end
local at
if repaired == 1 then at = renew(t) else at = expiry() end
return {'OK', NOW, at, 1, repaired, t.updated}

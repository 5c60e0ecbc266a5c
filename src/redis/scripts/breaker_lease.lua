-- Grants, finds or renews a lease of a trial call.
--
-- ARGV  8 what: GRANT, FIND, RENEW  9 lease id  10 its length in ms  11 permits in all
--       12 epoch and 13 generation of the permit that is renewed
-- OK    core, rest, totals, result: LIVE and its end, FULL, SETTLED, ABSENT, NOT_LEASING
local WHAT, ID, LENGTH, PERMITS = ARGV[8], ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11])
local result, ends = 'NOT_LEASING', 0
if LEASING then
  rewind_leases()
  local is_changed = purge_leases() or BACK > 0
  local score = tonumber(redis.call('ZSCORE', LEASES, ID) or '0')
  if score < 0 then
    result = 'SETTLED'
  elseif score > 0 then
    result, ends = 'LIVE', score
    if WHAT == 'RENEW' then ends, is_changed = NOW + LENGTH, true end
  elseif WHAT ~= 'GRANT' then
    result = 'ABSENT'
  elseif redis.call('ZCOUNT', LEASES, '(0', '+inf') + w.calls >= PERMITS then
    result = 'FULL'
  else
    result, ends, is_changed = 'LIVE', NOW + LENGTH, true
  end
  if WHAT == 'RENEW' and not is_current(ARGV[12], tonumber(ARGV[13])) then result, ends = 'ABSENT', 0 end
  if ends ~= score and ends > 0 then
    redis.call('ZADD', LEASES, string.format('%.0f', ends), ID)
    local left = redis.call('PTTL', STATE)
    if left > 0 then redis.call('PEXPIRE', LEASES, left) end
  end
  if is_changed then save_trial() end
end
local core, rest, totals = tell()
return {'OK', NOW, core, rest, totals, result, ends}

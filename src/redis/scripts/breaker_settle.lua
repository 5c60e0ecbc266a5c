-- Ends a lease with the outcome of its call.
--
-- ARGV  8 permit's epoch  9 its generation  10 lease id  11 mark  12 wanted pause in ms (0: none)  13 its outcome
--       14 most settled leases remembered
-- OK    core, rest, totals, disposition
local ID, MARK, PAUSE = ARGV[10], ARGV[11], tonumber(ARGV[12])
local CODES = {APPLIED = 1, NEUTRAL = 2}
local disposition = 'STALE'
if LEASING and is_current(ARGV[8], tonumber(ARGV[9])) then
  rewind_leases()
  local is_changed = purge_leases() or BACK > 0
  local score = tonumber(redis.call('ZSCORE', LEASES, ID) or '0')
  if score < 0 then
    disposition = -score % 10 == CODES.APPLIED and 'APPLIED' or 'NEUTRAL'
  elseif score > 0 then
    disposition = MARK == 'n' and 'NEUTRAL' or 'APPLIED'
    redis.call('ZADD', LEASES, string.format('%.0f', -(NOW * 10 + CODES[disposition])), ID)
    local settled = redis.call('ZCOUNT', LEASES, '-inf', '(0')
    if settled > tonumber(ARGV[14]) then
      redis.call('ZREM', LEASES, unpack(redis.call('ZREVRANGEBYSCORE', LEASES, '(0', '-inf', 'LIMIT', 0, 1)))
    end
    if disposition == 'APPLIED' then
      w.calls, w.last = w.calls + 1, w.last + 1
      if MARK == 'f' or MARK == 'F' then
        w.failures, w.run, w.failed_at = w.failures + 1, w.run + 1, NOW
      else
        w.run, w.ok_at = 0, w.last
      end
      if MARK == 'F' or MARK == 'S' then w.slow = w.slow + 1 end
      if PAUSE > 0 and NOW + PAUSE > w.pause_until then
        w.pause_until, w.pause_outcome = NOW + PAUSE, ARGV[13]
      end
    end
    is_changed = true
  end
  if is_changed then save_trial() end
end
local core, rest, totals = tell()
return {'OK', NOW, core, rest, totals, disposition}

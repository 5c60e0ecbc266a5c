-- Put before the scripts on leases: brings the leases to the present, and takes out those that ended.
--
-- ARGV  7 whether a lease that ended counts as a failure (0, 1)
local LEASING = mode == 'AUTOMATIC' and state == 'HALF_OPEN'

-- Ends move back with the clock.
local function rewind_leases()
  if BACK == 0 then return end
  local live = redis.call('ZRANGEBYSCORE', LEASES, '(0', '+inf', 'WITHSCORES')
  for i = 1, #live, 2 do redis.call('ZADD', LEASES, string.format('%.0f', live[i + 1] - BACK), live[i]) end
  w.pause_until = w.pause_until - BACK
end

-- Removes the leases that ended, and counts them if they count. Answers whether there were any.
local function purge_leases()
  local ended = redis.call('ZCOUNT', LEASES, '(0', NOW)
  if ended == 0 then return end
  redis.call('ZREMRANGEBYSCORE', LEASES, '(0', NOW)
  if ARGV[7] == '1' then
    w.calls, w.failures, w.run, w.failed_at = w.calls + ended, w.failures + ended, w.run + ended, NOW
  end
  return true
end

local function save_trial()
  if has_other_kind then empty_window() end
  local is_due = NOW - w.renewed >= HOUR or NOW < w.renewed
  if is_due then w.renewed = NOW end
  save_window()
  if is_due then set_expiries() end
  BACK = 0
end

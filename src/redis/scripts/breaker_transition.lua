-- Changes a breaker, if it stands where it is expected.
--
-- ARGV  7 expected epoch  8 expected generation  9 epoch of a key that has none  10 from  11 to  12 mode  13 reason
--       14 whether a state begins  15 whether windows and leases start empty  16 ms that it is OPEN from now on
--       (-1: as before)  17 whether `since` moves to now all the same  18 attempts  19 ms that an override lasts
--       (-1: until changed)  20 outcome  21 actor  22 detail  23 operator's request, empty for none  24 instance
--       25 whether an epoch begins (0, 1)  26 most entries of the log  27 most requests remembered
-- OK    core, rest, totals, whether it happened (0, 1)
local BEGINS, OPEN_FOR, OVERRIDE_FOR = ARGV[14] == '1', tonumber(ARGV[16]), tonumber(ARGV[19])
local TO, MODE, REASON, ACTOR, DETAIL = ARGV[11], ARGV[12], ARGV[13], ARGV[21], ARGV[22]

if ARGV[7] ~= epoch or tonumber(ARGV[8]) ~= generation then
  local core, rest, totals = tell()
  return {'OK', NOW, core, rest, totals, 0}
end
local function decimal(number) return string.format('%.0f', number) end
local rest = redis.call('HMGET', STATE, 'failureCount', 'requests', unpack(REST))
redis.call('ZCARD', LEASES)
local newest = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
local is_new = epoch == ''
local begins_epoch = is_new or ARGV[25] == '1'
if begins_epoch then epoch, generation, fence = ARGV[9], 0, 0 end
local next_generation = generation + 1

local since = BEGINS and NOW or ARGV[17] == '1' and NOW or core[8] or core[9] or NOW
if TO ~= 'OPEN' then
  open_until = 0
elseif OPEN_FOR >= 0 then
  open_until = NOW + OPEN_FOR
end
local until_text = open_until > 0 and decimal(open_until) or ''

-- The log first: a Redis that takes no more refuses it, and nothing has happened.
if begins_epoch or newest and tonumber(string.match(newest[1], '^%d+')) >= next_generation then
  -- What another breaker of this name, or another epoch, left behind.
  if redis.call('EXISTS', WINDOW, LEASES, LOG) > 0 then redis.call('UNLINK', WINDOW, LEASES, LOG) end
end
redis.call('XADD', LOG, 'MAXLEN', ARGV[26], decimal(next_generation) .. '-0', 'from', ARGV[10], 'to', TO, 'mode', MODE,
  'at', decimal(NOW), 'reason', REASON, 'outcome', ARGV[20], 'actor', ACTOR, 'detail', DETAIL, 'instance', ARGV[24],
  'openUntil', until_text)

local fields = {
  'state', TO, 'epoch', epoch, 'generation', decimal(next_generation), 'fence', decimal(BEGINS and next_generation or fence),
  'fenceBefore', BEGINS and decimal(fence) or core[5] or 0, 'mode', MODE, 'since', since, 'openUntil', until_text,
  'attempts', ARGV[18], 'reason', REASON,
}
local function set(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
set('openedAt', TO == 'OPEN' and (BEGINS and decimal(NOW) or core[9] or decimal(NOW)) or '')
if BEGINS then
  local failures = ARGV[3] == 'none' and w.run or w.failures
  set('failureCount', TO == 'CLOSED' and 0 or failures)
  set('calls', w.calls)
  set('failures', w.failures)
  set('slowCalls', w.slow)
  set('consecutiveFailures', w.run)
end
set('lastFailureTime', w.failed_at > 0 and decimal(w.failed_at) or core[12] or 0)
if MODE == 'AUTOMATIC' then
  mode_until = 0
  for _, name in ipairs({'modeUntil', 'modeReason', 'modeActor', 'modeSetAt'}) do set(name, '') end
elseif REASON == 'OVERRIDE' then
  mode_until = OVERRIDE_FOR >= 0 and NOW + OVERRIDE_FOR or 0
  set('modeUntil', mode_until > 0 and decimal(mode_until) or '')
  set('modeReason', DETAIL)
  set('modeActor', ACTOR)
  set('modeSetAt', decimal(NOW))
end
if ARGV[23] ~= '' then
  local requests, n, most = ARGV[23], 1, tonumber(ARGV[27])
  for request in string.gmatch(rest[2] or '', '%S+') do
    if n == most then break end
    requests, n = requests .. ' ' .. request, n + 1
  end
  set('requests', requests)
end
redis.call('HSET', STATE, unpack(fields))

if BEGINS or ARGV[15] == '1' then
  redis.call('UNLINK', LEASES)
  if not is_new then empty_window() end
  redis.call('HSET', WINDOW, 'seen', decimal(NOW), 'renewed', decimal(NOW))
  w = {calls = 0, failures = 0, slow = 0, run = 0, failed_at = 0, pause_until = 0, pause_outcome = '', kind = KIND}
end
stored_mode, state, was_kind, BACK = MODE, TO, nil, 0
set_expiries()
core = redis.call('HMGET', STATE, unpack(CORE))
local core, rest, totals = tell()
return {'OK', NOW, core, rest, totals, 1}

-- Put before every script that decides or tells how one breaker stands.
--
-- KEYS  1 state (hash)  2 window (hash)  3 leases (zset)  4 settings (hash)  5 log (stream)
-- ARGV  1 the latest moment at which to write, in ms of this server's clock; 0: none
--       2 revision of the settings that the caller goes by, empty for none stored
--       3 what calls are counted in: none (since the state began), count, time
--       4 its size in calls or seconds  5 distinct instances that must have seen failures
--       6 ms that the keys outlive what happened last
-- Answers begin with a word and the present ms: OK; LATE; OUTDATED and the stored settings; CORRUPT and a key.
--
-- The window's fields: kind; calls, failures, slow (running totals), run (failures in a row); first and last (oldest
-- and newest second, or the first mark kept and the next); okAt (the next mark after the last success); failedAt;
-- pauseUntil, pauseOutcome; seen (the last write's time); renewed (when expiries were last set); members (instances)
-- and `i:<instance>`: its last batch, that batch's longest run, where its last failure is, what became of the batch's
-- groups (initials), when it was heard of.
-- A time window has a field for each second, "calls failures slow"; a count window has `r<n>`, 128 marks each.
-- Leases have their end as score; settled ones -(ms * 10 + code), so that the oldest are those nearest to zero.
--
-- Redis has no rollback, so every script reads and checks all its keys before its first write.
local STATE, WINDOW, LEASES, SETTINGS, LOG = unpack(KEYS)
local time = redis.call('TIME')
local NOW = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(ARGV[1]) > 0 and NOW > tonumber(ARGV[1]) then return {'LATE', NOW} end
if (redis.call('HGET', SETTINGS, 'revision') or '') ~= ARGV[2] then
  return {'OUTDATED', NOW, redis.call('HGETALL', SETTINGS)}
end
local KIND, SIZE, MIN_REPORTERS = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local LIFE, HOUR = tonumber(ARGV[6]), 3600000
local STATES = {CLOSED = true, OPEN = true, HALF_OPEN = true}
local MODES = {AUTOMATIC = true, FORCED_OPEN = true, DISABLED = true, METRICS_ONLY = true}
local CHUNK = 128
local MEMBER = '^(%d+) (%d+) (-?%d+) (%a+) (%d+)$'

-- The fields that every answer tells, in its order; a hash that others wrote may lack some.
local CORE = {
  'state', 'epoch', 'generation', 'fence', 'fenceBefore', 'mode', 'modeUntil', 'since', 'openedAt', 'openUntil',
  'attempts', 'lastFailureTime',
}
-- Those that only some answers tell.
local REST = {
  'calls', 'failures', 'slowCalls', 'consecutiveFailures', 'modeReason', 'modeActor', 'modeSetAt',
}
local core = redis.call('HMGET', STATE, unpack(CORE))
local state, epoch, mode = core[1] or 'CLOSED', core[2] or '', core[6] or 'AUTOMATIC'
local generation, fence = tonumber(core[3] or '0'), tonumber(core[4] or '0')
local mode_until, open_until = tonumber(core[7] or '') or 0, tonumber(core[10] or '') or 0
-- Beyond this a double is not exact.
local MOST = 9007199254740991
if not (STATES[state] and MODES[mode] and generation and fence and tonumber(core[11] or '0'))
  or math.abs(generation) > MOST or math.abs(fence) > MOST then
  return {'CORRUPT', NOW, STATE}
end
-- An override that has ended decides no more, although it still stands there.
local stored_mode = mode
if mode ~= 'AUTOMATIC' and mode_until > 0 and NOW >= mode_until then mode = 'AUTOMATIC' end
if state == 'HALF_OPEN' then
  -- Results of trial calls do not age.
  KIND = 'none'
  redis.call('ZCARD', LEASES)
end

local w, has_other_kind = {}, false
do
  local read = redis.call('HMGET', WINDOW, 'kind', 'calls', 'failures', 'slow', 'run', 'first', 'last', 'okAt',
    'failedAt', 'pauseUntil', 'pauseOutcome', 'seen', 'renewed')
  -- What an evicted or deleted breaker left behind is not this one's.
  if epoch ~= '' then
    w.seen, w.renewed = tonumber(read[12] or '0'), tonumber(read[13] or '0')
    w.failed_at, w.pause_until, w.pause_outcome = tonumber(read[9] or '0'), tonumber(read[10] or '0'), read[11]
    if read[1] == KIND then
      w.kind, w.calls, w.failures, w.slow = KIND, tonumber(read[2]), tonumber(read[3]), tonumber(read[4])
      w.run, w.first, w.last, w.ok_at = tonumber(read[5]), tonumber(read[6]), tonumber(read[7]), tonumber(read[8])
      if not (w.calls and w.failures and w.slow and w.run and w.first and w.last and w.ok_at) then
        return {'CORRUPT', NOW, WINDOW}
      end
    else
      has_other_kind = read[1] ~= false
    end
  end
end
local was_kind = w.kind
w.seen, w.renewed, w.failed_at = w.seen or 0, w.renewed or 0, w.failed_at or 0
w.pause_until, w.pause_outcome = w.pause_until or 0, w.pause_outcome or ''
if not w.kind then
  w.kind, w.calls, w.failures, w.slow, w.run, w.first, w.last, w.ok_at = KIND, 0, 0, 0, 0, 0, 0, 0
end
-- How far the clock has gone back since the last write.
local BACK = math.max(0, w.seen - NOW)
local SECOND = math.floor(NOW / 1000)
-- The oldest second in a time window; where the clock went back, as of the last write: what was out of it stays out.
local OLDEST = math.floor((NOW + BACK) / 1000) - SIZE + 1

-- Takes out of the totals what is too old by now; answers the fields that held it.
local gone = {}
if w.kind == 'time' and w.calls > 0 then
  if w.last < OLDEST then
    for second = w.first, w.last do gone[#gone + 1] = second end
    w.calls, w.failures, w.slow, w.first, w.last = 0, 0, 0, 0, 0
  elseif w.first < OLDEST then
    for second = w.first, OLDEST - 1 do gone[#gone + 1] = second end
    for from = 1, #gone, 1000 do
      local buckets = redis.call('HMGET', WINDOW, unpack(gone, from, math.min(#gone, from + 999)))
      for _, bucket in ipairs(buckets) do
        if bucket then
          local calls, failures, slow = string.match(bucket, '^(%d+) (%d+) (%d+)$')
          if not calls then return {'CORRUPT', NOW, WINDOW} end
          w.calls, w.failures, w.slow = w.calls - calls, w.failures - failures, w.slow - slow
        end
      end
    end
    w.first = OLDEST
  end
elseif w.kind == 'count' and w.last - w.first > SIZE then
  -- The window has been made smaller.
  local first = w.last - SIZE
  for n = math.floor(w.first / CHUNK), math.floor((first - 1) / CHUNK) do
    local marks = redis.call('HGET', WINDOW, 'r' .. n) or ''
    for at = math.max(w.first, n * CHUNK), math.min(first, (n + 1) * CHUNK) - 1 do
      local mark = string.sub(marks, at % CHUNK + 1, at % CHUNK + 1)
      if mark == '' then return {'CORRUPT', NOW, WINDOW} end
      w.calls = w.calls - 1
      if mark == 'f' or mark == 'F' then w.failures = w.failures - 1 end
      if mark == 'F' or mark == 'S' then w.slow = w.slow - 1 end
    end
    if first >= (n + 1) * CHUNK then gone[#gone + 1] = 'r' .. n end
  end
  w.first = first
end

-- Distinct instances whose failures are in the window; looked for only where more than one is wanted.
local function reporters()
  if MIN_REPORTERS <= 1 or not was_kind then return 1 end
  local oldest = w.ok_at
  if w.kind == 'time' then oldest = OLDEST elseif w.kind == 'count' then oldest = w.first end
  local members = redis.call('HGET', WINDOW, 'members') or ''
  local found = 0
  for member in string.gmatch(members, '%S+') do
    local _, _, failed = string.match(redis.call('HGET', WINDOW, 'i:' .. member) or '', MEMBER)
    if failed and tonumber(failed) >= oldest then found = found + 1 end
  end
  return found
end

-- Leases that have not ended. Ends are compared with the clock as it stood before it went back.
local function live_leases()
  if state ~= 'HALF_OPEN' then return 0 end
  return redis.call('ZCOUNT', LEASES, '(' .. (NOW + BACK), '+inf')
end

-- How the breaker stands, as the answers tell it: core, rest, totals.
local function tell()
  local rest = {}
  if state ~= 'CLOSED' or stored_mode ~= 'AUTOMATIC' then rest = redis.call('HMGET', STATE, unpack(REST)) end
  return core, rest, {w.calls, w.failures, w.slow, w.run, reporters(), live_leases(), w.failed_at,
    w.pause_until - BACK, w.pause_outcome}
end

-- Whether a permit of this position is not stale.
local function is_current(its_epoch, its_generation)
  if its_epoch == '' and its_generation == 0 and generation == 0 then return true end
  return its_epoch == epoch and epoch ~= '' and its_generation >= fence and its_generation <= generation
end

-- Sets all expiries: `LIFE` after the last report or the end of what is in force, none under an open-ended override.
local function set_expiries()
  for _, key in ipairs({STATE, WINDOW, LEASES, LOG}) do
    if stored_mode ~= 'AUTOMATIC' and mode_until == 0 then
      redis.call('PERSIST', key)
    else
      redis.call('PEXPIREAT', key, string.format('%.0f', math.max(NOW, open_until, mode_until) + LIFE))
    end
  end
end

-- Empties the window but for what makes repeated batches harmless: the instances and their numbers.
local function empty_window()
  local members = redis.call('HGET', WINDOW, 'members')
  local kept = {}
  for id in string.gmatch(members or '', '%S+') do
    local known, run, _, did, heard = string.match(redis.call('HGET', WINDOW, 'i:' .. id) or '', MEMBER)
    if known then
      kept[#kept + 1] = 'i:' .. id
      kept[#kept + 1] = known .. ' ' .. run .. ' -1 ' .. did .. ' ' .. heard
    end
  end
  redis.call('UNLINK', WINDOW)
  if members then redis.call('HSET', WINDOW, 'members', members) end
  -- Lua passes only so many arguments at once.
  for from = 1, #kept, 1000 do
    redis.call('HSET', WINDOW, unpack(kept, from, math.min(#kept, from + 999)))
  end
  -- Its expiry went with it.
  w.renewed = 0
end

-- Writes the window's totals. What the clock left behind is brought to the present first.
local function save_window()
  for from = 1, #gone, 1000 do
    redis.call('HDEL', WINDOW, unpack(gone, from, math.min(#gone, from + 999)))
  end
  gone = {}
  redis.call('HSET', WINDOW, 'kind', w.kind, 'calls', w.calls, 'failures', w.failures, 'slow', w.slow, 'run', w.run,
    'first', w.first, 'last', w.last, 'okAt', w.ok_at, 'failedAt', w.failed_at, 'pauseUntil', w.pause_until,
    'pauseOutcome', w.pause_outcome, 'seen', NOW, 'renewed', w.renewed)
end

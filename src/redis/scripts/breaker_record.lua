-- Adds outcomes of one instance, in order.
--
-- ARGV  7 instance  8 number of the batch  9 whether a new key may be created (0, 1)  10 its epoch
--       11 ms that a silent instance is remembered
--       then for each group: permit's epoch, its generation (-1: no permit), marks, wanted pause in ms (0: none) and
--       its outcome. A mark is n (neutral), s (success), f (failure), in capitals when slow.
-- OK    core, rest, totals, dispositions (APPLIED, NEUTRAL, STALE), longest run. No dispositions: an override has
--       ended, and nothing counts before the change that says so
-- else  UNBORN: the key is new and may not be created
local INSTANCE, NUMBER = ARGV[7], tonumber(ARGV[8])
local FIRST, GROUP = 12, 5
local FATES = {A = 'APPLIED', N = 'NEUTRAL', S = 'STALE'}

-- What happens to a group.
local function fate(its_epoch, its_generation)
  local has_permit = its_generation >= 0
  if has_permit and not is_current(its_epoch, its_generation) then return 'STALE' end
  if mode == 'FORCED_OPEN' or mode == 'DISABLED' then return 'NEUTRAL' end
  if mode == 'METRICS_ONLY' or state == 'CLOSED' then return 'APPLIED' end
  return 'STALE'
end
if stored_mode ~= mode then
  local core, rest, totals = tell()
  return {'OK', NOW, core, rest, totals, {}, 0}
end
local fates, is_counted = {}, false
for at = FIRST, #ARGV, GROUP do
  local what = fate(ARGV[at], tonumber(ARGV[at + 1]))
  fates[#fates + 1] = what
  is_counted = is_counted or what == 'APPLIED'
end

local member = epoch ~= '' and redis.call('HGET', WINDOW, 'i:' .. INSTANCE) or ''
local last_number, last_run, last_failure, last_fates = string.match(member or '', MEMBER)
if last_number and NUMBER <= tonumber(last_number) then
  if NUMBER == tonumber(last_number) then
    -- The answer was lost. What the batch did then is what it did, whatever happened since.
    fates = {}
    for initial in string.gmatch(last_fates, '%a') do fates[#fates + 1] = FATES[initial] end
  end
  local core, rest, totals = tell()
  return {'OK', NOW, core, rest, totals, fates, tonumber(last_run)}
end
if not is_counted then
  local core, rest, totals = tell()
  return {'OK', NOW, core, rest, totals, fates, 0}
end
if epoch == '' and ARGV[9] == '0' then return {'UNBORN', NOW} end

-- The marks, one after the other.
local longest, chunks, failed, bucket = 0, {}, nil, nil
if w.kind == 'time' then
  local calls, failures, slow = 0, 0, 0
  if BACK > 0 then
    -- What lies in the future counts as of now.
    for second = w.first, w.last do gone[#gone + 1] = second end
    calls, failures, slow, w.first = w.calls, w.failures, w.slow, SECOND
  elseif was_kind then
    local stored = redis.call('HGET', WINDOW, SECOND)
    if stored then
      calls, failures, slow = string.match(stored, '^(%d+) (%d+) (%d+)$')
      if not calls then return {'CORRUPT', NOW, WINDOW} end
    end
  end
  bucket = {calls, failures, slow}
end
local is_corrupt, dirty = false, {}
local function chunk(n)
  if not chunks[n] then chunks[n] = was_kind and redis.call('HGET', WINDOW, 'r' .. n) or '' end
  return chunks[n]
end
local function evict_oldest()
  local n, offset = math.floor(w.first / CHUNK), w.first % CHUNK
  local byte = string.sub(chunk(n), offset + 1, offset + 1)
  if byte == '' then is_corrupt = true end
  w.calls = w.calls - 1
  if byte == 'f' or byte == 'F' then w.failures = w.failures - 1 end
  if byte == 'F' or byte == 'S' then w.slow = w.slow - 1 end
  w.first = w.first + 1
  if w.first % CHUNK == 0 then
    gone[#gone + 1] = 'r' .. n
    chunks[n], dirty[n] = nil, nil
  end
end
-- Counts a group at once: only the row of failures depends on the order of its marks.
local function add(marks)
  local reversed = string.reverse(marks)
  local _, failures = string.gsub(marks, '[fF]', '')
  local _, slow = string.gsub(marks, '[FS]', '')
  w.calls, w.failures, w.slow = w.calls + #marks, w.failures + failures, w.slow + slow
  if failures > 0 then
    local head = #string.match(marks, '^[fF]*')
    if head > 0 then longest = math.max(longest, w.run + head) end
    for row in string.gmatch(marks, '[fF]+') do longest = math.max(longest, #row) end
    w.failed_at = NOW
    failed = w.kind == 'time' and SECOND or w.last + #marks - string.find(reversed, '[fF]')
  end
  if failures == #marks then
    w.run = w.run + #marks
  else
    w.run = #string.match(reversed, '^[fF]*')
    w.ok_at = w.kind == 'time' and SECOND or w.last + #marks - w.run
  end
  if w.kind == 'time' then
    bucket[1], bucket[2], bucket[3] = bucket[1] + #marks, bucket[2] + failures, bucket[3] + slow
  else
    w.last = w.last + #marks
  end
end
-- A window of the last calls keeps each mark, and loses the oldest.
local function keep(marks)
  for i = 1, #marks do
    local n = math.floor((w.last - #marks + i - 1) / CHUNK)
    chunks[n], dirty[n] = chunk(n) .. string.sub(marks, i, i), true
  end
  while w.last - w.first > SIZE do evict_oldest() end
end
w.pause_until = w.pause_until - BACK
local n = 0
for at = FIRST, #ARGV, GROUP do
  n = n + 1
  if fates[n] == 'APPLIED' then
    local marks = string.gsub(ARGV[at + 2], 'n', '')
    if marks ~= '' then
      add(marks)
      if w.kind == 'count' then keep(marks) end
    end
    local pause = tonumber(ARGV[at + 3])
    if pause > 0 and NOW + pause > w.pause_until then
      w.pause_until, w.pause_outcome = NOW + pause, ARGV[at + 4]
    end
  end
end
if bucket and bucket[1] + 0 == 0 then bucket = nil end
if bucket then
  if w.last == 0 or w.first == 0 then w.first = SECOND end
  w.last = SECOND
end
if is_corrupt then return {'CORRUPT', NOW, WINDOW} end

-- From here on it writes.
local is_new = epoch == ''
if is_new then
  epoch, core[2] = ARGV[10], ARGV[10]
  local since = tonumber(core[8] or '') or tonumber(core[9] or '') or NOW
  local born = {state, epoch, 0, 0, 0, mode, '', since, core[9] or '', core[10] or '', core[11] or 0, core[12] or 0}
  local fields = {}
  -- In this order, for whoever reads the hash.
  for i, name in ipairs(CORE) do
    core[i] = tostring(born[i])
    if name == 'since' then core[i] = string.format('%.0f', since) end
    fields[#fields + 1] = name
    fields[#fields + 1] = core[i]
  end
  fields[#fields + 1] = 'failureCount'
  fields[#fields + 1] = 0
  redis.call('HSET', STATE, unpack(fields))
  -- What a breaker that is gone left behind is not this one's; its settings are.
  redis.call('UNLINK', WINDOW, LEASES, LOG)
  gone = {}
elseif has_other_kind then
  empty_window()
  gone, last_failure = {}, nil
end
local is_due = is_new or NOW - w.renewed >= HOUR or NOW < w.renewed
if is_due then w.renewed = NOW end
save_window()
if bucket then
  redis.call('HSET', WINDOW, SECOND, bucket[1] .. ' ' .. bucket[2] .. ' ' .. bucket[3])
end
for number in pairs(dirty) do redis.call('HSET', WINDOW, 'r' .. number, chunks[number]) end
if not last_number then
  -- A new instance: those that were silent for long are forgotten.
  local members = INSTANCE
  for id in string.gmatch(redis.call('HGET', WINDOW, 'members') or '', '%S+') do
    local _, _, _, _, heard = string.match(redis.call('HGET', WINDOW, 'i:' .. id) or '', MEMBER)
    if id ~= INSTANCE and heard and NOW - heard < tonumber(ARGV[11]) then
      members = members .. ' ' .. id
    elseif id ~= INSTANCE then
      redis.call('HDEL', WINDOW, 'i:' .. id)
    end
  end
  redis.call('HSET', WINDOW, 'members', members)
end
if BACK > 0 and w.kind == 'time' then
  -- So do the failures of instances; those that are out of the window stay out.
  local function moved(at) return tonumber(at) >= OLDEST and SECOND or -1 end
  for id in string.gmatch(redis.call('HGET', WINDOW, 'members') or '', '%S+') do
    local number, run, at, did, heard = string.match(redis.call('HGET', WINDOW, 'i:' .. id) or '', MEMBER)
    if number then
      redis.call('HSET', WINDOW, 'i:' .. id, string.format('%s %s %.0f %s %s', number, run, moved(at), did, heard))
    end
  end
  last_failure = last_failure and moved(last_failure)
end
local initials = {}
for i, what in ipairs(fates) do initials[i] = string.sub(what, 1, 1) end
redis.call('HSET', WINDOW, 'i:' .. INSTANCE,
  string.format('%.0f %d %.0f %s %.0f', NUMBER, longest, failed or last_failure or -1, table.concat(initials), NOW))
if is_due then set_expiries() end
BACK, OLDEST, was_kind = 0, SECOND - SIZE + 1, w.kind
local told, rest, totals = tell()
return {'OK', NOW, told, rest, totals, fates, longest}

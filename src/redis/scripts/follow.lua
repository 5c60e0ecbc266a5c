-- Tells what happened to a thread since somebody was told of it; renews nothing.
--
-- ARGV  2 the epoch that was told, empty to begin with stored messages  3 the revision  4 the seq up to which messages
--       were told  5 seq of the oldest listed message then, 0 if unknown  6 most messages  7 most bytes
-- OK    expiry, thread, revision of the newest change that is no append,
--       seq of the newest stored message (-1 unless the list's head has moved),
--       changes in order {revision, the one noted before, kind, three numbers, …},
--       their messages as far as they are stored and were told {seq, entry, …}, whether more changes follow,
--       messages not told yet {seq, entry, …} (none while more changes follow), whether more follow
-- GONE  whether the epoch told was deleted (0, 1)
-- else  RANGE field last_seq, CORRUPT key
local epoch, revision, told = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local listed_from, limit, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then
  for deleted in string.gmatch(redis.call('GET', TOMBSTONE) or '', '(%S-):%S*') do
    if deleted == epoch then return {'GONE', NOW, 1} end
  end
  return {'GONE', NOW, 0}
end
local at = expiry()
local is_first = epoch == ''
if is_first and told > t.last_seq then return {'RANGE', NOW, 'after_seq', t.last_seq} end

-- A message that changed more than once is read once.
local changes, touched, seen, bytes, cut = {}, {}, {}, 0, 0
local function take_message(seq)
  if seen[seq] or seq > told then return true end
  local entry
  if seq < t.first_seq then
    entry = redis.call('HGET', SYSTEM, seq)
  else
    entry = redis.call('LINDEX', MESSAGES, seq - t.first_seq)
  end
  if entry and entry ~= '' then
    local _, size = weigh(entry)
    if bytes > 0 and bytes + size > max_bytes then return false end
    bytes = bytes + size
    touched[#touched + 1] = seq
    touched[#touched + 1] = entry
  end
  seen[seq] = true
  return true
end
local function take_changes()
  for _, noted in ipairs(redis.call('XRANGE', CHANGES, string.format('%.0f-0', revision + 1), '+')) do
    local fields = {}
    for i = 1, #noted[2], 2 do fields[noted[2][i]] = noted[2][i + 1] end
    local kind, a, b, c = 'thread', 0, 0, 0
    if fields.message then
      kind, a = 'message', tonumber(fields.message) or 0
      if not take_message(a) then
        cut = 1
        return
      end
    elseif fields.listed_from then
      kind, a, b = 'truncated', tonumber(fields.first_seq) or 0, tonumber(fields.last_seq) or 0
      c = tonumber(fields.listed_from) or 0
    end
    local n = #changes
    changes[n + 1], changes[n + 2] = string.match(noted[1], '^%d+'), tonumber(fields.after) or t.revision
    changes[n + 3] = kind
    changes[n + 4], changes[n + 5], changes[n + 6] = a, b, c
  end
end

local page, more, newest = {}, 0, -1
if is_first or epoch == t.epoch then
  if not is_first and t.changed > revision then take_changes() end
  if cut == 0 then page, more = read_page(t, told + 1, t.last_seq, false, limit, max_bytes, 0) end
  if not is_first and t.first_seq ~= listed_from then newest = last_stored(t) end
end
return {'OK', NOW, at, describe(t), t.changed, newest, changes, touched, cut, page, more}

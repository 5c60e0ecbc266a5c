-- Reads a thread and, if asked, some of its messages.
--
-- ARGV  2 renew (0, 1)  3 epoch that must be the thread's, empty for any  4 revision of the last change that was no append, -1 for any
--       5 after seq  6 before seq, 0 for none  7 descending (0, 1)  8 most messages, 0 for none at all
--       9 most bytes  10 most tokens, 0 for no limit  11 instructions too (0, 1)
-- OK    expiry, thread, {seq, entry, …} in the order asked for, whether more follow, {seq, instruction, …}
-- else  ABSENT, STALE (another epoch or change), RANGE field last_seq, CORRUPT key
local after, before = tonumber(ARGV[5]), tonumber(ARGV[6])
local descending, limit = ARGV[7] == '1', tonumber(ARGV[8])
local max_bytes, max_tokens = tonumber(ARGV[9]), tonumber(ARGV[10])

local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
if ARGV[3] ~= '' and ARGV[3] ~= t.epoch then return {'STALE', NOW} end
if ARGV[4] ~= '-1' and tonumber(ARGV[4]) ~= t.edited then return {'STALE', NOW} end
if after > t.last_seq then return {'RANGE', NOW, 'after_seq', t.last_seq} end
if before > t.last_seq + 1 then return {'RANGE', NOW, 'before_seq', t.last_seq} end

local page, more = {}, 0
if limit > 0 then
  local high = t.last_seq
  if before > 0 then high = math.min(high, before - 1) end
  page, more = read_page(t, after + 1, high, descending, limit, max_bytes, max_tokens)
end
local instructions = {}
if ARGV[11] == '1' then instructions = redis.call('HGETALL', SYSTEM) end

local at
if ARGV[2] == '1' then at = renew(t) else at = expiry() end
return {'OK', NOW, at, describe(t), page, more, instructions}

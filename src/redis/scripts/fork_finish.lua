-- Makes a finished copy a thread.
--
-- KEYS  8 messages  9 system  10 ids, of the copy in the making
-- ARGV  2 slots that the copy must have  3 the creation's request id  then the thread's fields and values
-- OK    expiry, thread
-- else  EXISTS, LOST (the copy in the making expired), CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if t then
  if ARGV[3] ~= '' and t.create_request == ARGV[3] then return {'OK', NOW, expiry(), describe(t)} end
  return {'EXISTS', NOW}
end
if redis.call('LLEN', KEYS[8]) ~= tonumber(ARGV[2]) then return {'LOST', NOW} end
local has_system = redis.call('EXISTS', KEYS[9]) == 1
local has_ids = redis.call('EXISTS', KEYS[10]) == 1

redis.call('HSET', THREAD, 'created', NOW, 'updated', NOW, 'indexed', NOW, 'edited', 0, unpack(ARGV, 4))
redis.call('UNLINK', MESSAGES, SYSTEM, IDS, IDS_OLD, CHANGES)
if tonumber(ARGV[2]) > 0 then redis.call('RENAME', KEYS[8], MESSAGES) end
if has_system then redis.call('RENAME', KEYS[9], SYSTEM) end
if has_ids then redis.call('RENAME', KEYS[10], IDS) end
for _, key in ipairs({MESSAGES, SYSTEM, IDS}) do redis.call('PERSIST', key) end
t, corrupt = read_thread()
if corrupt then return corrupt end
drop_leading_holes(t)
redis.call('HSET', THREAD, 'first_seq', t.first_seq)
return {'OK', NOW, renew(t), describe(t)}

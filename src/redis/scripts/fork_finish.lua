-- Makes a finished copy a thread.
--
-- KEYS  7 messages  8 system  9 ids, of the copy in the making
-- ARGV  2 slots that the copy must have  3 the creation's request id  then the thread's fields and values
-- OK    expiry, thread
-- else  EXISTS, LOST (the copy in the making expired), CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if t then
  if ARGV[3] ~= '' and t.create_request == ARGV[3] then return {'OK', NOW, expiry(), describe(t)} end
  return {'EXISTS', NOW}
end
if redis.call('LLEN', KEYS[7]) ~= tonumber(ARGV[2]) then return {'LOST', NOW} end
local has_system = redis.call('EXISTS', KEYS[8]) == 1
local has_ids = redis.call('EXISTS', KEYS[9]) == 1

redis.call('HSET', THREAD, 'created', NOW, 'updated', NOW, 'indexed', NOW, 'edited', 0, unpack(ARGV, 4))
redis.call('UNLINK', MESSAGES, SYSTEM, IDS, IDS_OLD)
if tonumber(ARGV[2]) > 0 then redis.call('RENAME', KEYS[7], MESSAGES) end
if has_system then redis.call('RENAME', KEYS[8], SYSTEM) end
if has_ids then redis.call('RENAME', KEYS[9], IDS) end
for i = 2, 5 do redis.call('PERSIST', KEYS[i]) end
t, corrupt = read_thread()
if corrupt then return corrupt end
drop_leading_holes(t)
redis.call('HSET', THREAD, 'first_seq', t.first_seq)
return {'OK', NOW, renew(t), describe(t)}

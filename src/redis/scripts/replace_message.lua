-- Replaces one message if it is still what it was; renews the thread.
--
-- ARGV  2 etag, empty for any  3 request, empty for none  4 seq  5 the old entry
--       6 the new entry behind the commit time  7 most bytes in a thread  8 most bytes of instructions
--       9 most requests remembered  10 most changes noted
-- OK    expiry, thread
-- else  ABSENT, CHANGED, ETAG etag, LIMIT what limit, CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
if was_requested(t, ARGV[3]) then return {'CHANGED', NOW} end
if ARGV[2] ~= '' and ARGV[2] ~= etag(t) then return {'ETAG', NOW, etag(t)} end
local seq, old = tonumber(ARGV[4]), ARGV[5]
local instruction = redis.call('HGET', SYSTEM, seq)
local listed = seq >= t.first_seq
local present = instruction
if listed then present = redis.call('LINDEX', MESSAGES, seq - t.first_seq) end
if present ~= old then return {'CHANGED', NOW} end

-- The commit time stays.
local new = string.sub(old, 1, 9) .. ARGV[6]
local old_tokens, old_size = weigh(old)
local new_tokens, new_size = weigh(new)
local growth = new_size - old_size
if growth > 0 and tonumber(t.trim_bytes) == 0 and t.bytes + growth > tonumber(ARGV[7]) then
  return {'LIMIT', NOW, 'bytes', tonumber(ARGV[7])}
end
if instruction and growth > 0 and t.system_bytes + growth > tonumber(ARGV[8]) then
  return {'LIMIT', NOW, 'bytes of instructions', tonumber(ARGV[8])}
end

t.bytes = t.bytes + growth
t.tokens = t.tokens + new_tokens - old_tokens
if instruction then
  t.system_bytes = t.system_bytes + growth
  if not listed then t.kept_bytes = t.kept_bytes + growth end
end
t.revision = t.revision + 1
t.edited = t.revision
t.updated = NOW
remember_request(t, ARGV[3], tonumber(ARGV[9]))
redis.call('HSET', THREAD, 'requests', t.requests or ' ', 'changed', t.revision)
if instruction then redis.call('HSET', SYSTEM, seq, new) end
if listed then redis.call('LSET', MESSAGES, seq - t.first_seq, new) end
save(t)
note_change(t, ARGV[10], 'message', seq)
return {'OK', NOW, renew(t), describe(t)}

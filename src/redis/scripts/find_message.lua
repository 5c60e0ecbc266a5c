-- Finds one message by id.
--
-- ARGV  2 etag, empty for any  3 request, empty for none  4 message id
-- OK    expiry, thread, whether the request was carried out before, seq, entry
-- else  ABSENT, NO_MESSAGE, ETAG etag, CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
local repeated = was_requested(t, ARGV[3])
if not repeated and ARGV[2] ~= '' and ARGV[2] ~= etag(t) then return {'ETAG', NOW, etag(t)} end
local known = redis.call('HGET', IDS, ARGV[4]) or redis.call('HGET', IDS_OLD, ARGV[4])
if not known then return {'NO_MESSAGE', NOW} end
local seq = tonumber(string.match(known, '^(%d+) %x+$'))
if not seq then return {'CORRUPT', NOW, IDS} end
local entry
if seq < t.first_seq then
  entry = redis.call('HGET', SYSTEM, seq)
else
  entry = redis.call('LINDEX', MESSAGES, seq - t.first_seq)
end
if not entry or entry == '' then return {'NO_MESSAGE', NOW} end
return {'OK', NOW, expiry(), describe(t), repeated and 1 or 0, seq, entry}

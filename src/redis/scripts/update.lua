-- Changes a thread's own fields, or with no request and no etag (a touch) only its time to live; renews it.
--
-- ARGV  2 etag, empty for any  3 request, empty for none  4 write (1) or touch (0: no new revision)
--       5 most requests remembered  6 most changes noted
--       then the fields and their new values
-- OK    expiry, whether the index is due, thread
-- else  ABSENT, ETAG etag, CORRUPT key
local t, corrupt = read_thread()
if corrupt then return corrupt end
if not t then return {'ABSENT', NOW} end
if was_requested(t, ARGV[3]) then return {'OK', NOW, expiry(), 0, describe(t)} end
if ARGV[2] ~= '' and ARGV[2] ~= etag(t) then return {'ETAG', NOW, etag(t)} end

for i = 7, #ARGV, 2 do t[ARGV[i]] = ARGV[i + 1] end
t.ttl, t.pinned = tonumber(t.ttl), tonumber(t.pinned)
if ARGV[4] == '1' then
  t.revision = t.revision + 1
  t.updated = NOW
  t.indexed = NOW
  remember_request(t, ARGV[3], tonumber(ARGV[5]))
  redis.call('HSET', THREAD, 'requests', t.requests or ' ', 'changed', t.revision, unpack(ARGV, 7))
  save(t)
  note_change(t, ARGV[6], 'thread', '')
else
  redis.call('HSET', THREAD, unpack(ARGV, 7))
end
return {'OK', NOW, renew(t), 1, describe(t)}

-- Deletes a thread and leaves a tombstone: the last deletions, each `epoch:request id`, with a space between.
--
-- ARGV  2 etag, empty for any  3 request id, empty for none  4 life of the tombstone in s  5 most deletions in it
-- OK    the epoch that was deleted and its owner; both empty for a repeat
-- else  ABSENT, ETAG etag, CORRUPT key
local t, corrupt = read_thread()
if corrupt then
  if corrupt[3] ~= MESSAGES then return corrupt end
  -- A list that lost its length is no reason to keep the rest.
  local fields = redis.call('HMGET', THREAD, 'epoch', 'revision', 'owner')
  t = {epoch = fields[1], revision = fields[2], owner = fields[3] or ''}
end
local tombstone = redis.call('GET', TOMBSTONE) or ''
if ARGV[3] ~= '' then
  for request in string.gmatch(tombstone, '%S-:(%S+)') do
    if request == ARGV[3] then return {'OK', NOW, '', ''} end
  end
end
if not t then return {'ABSENT', NOW} end
if ARGV[2] ~= '' and ARGV[2] ~= etag(t) then return {'ETAG', NOW, etag(t)} end

local stones, n, most = t.epoch .. ':' .. ARGV[3], 1, tonumber(ARGV[5])
for stone in string.gmatch(tombstone, '%S+') do
  if n == most then break end
  stones = stones .. ' ' .. stone
  n = n + 1
end
-- First, so that a deletion also works when memory is full.
redis.call('UNLINK', unpack(LIVING))
redis.call('SETEX', TOMBSTONE, ARGV[4], stones)
return {'OK', NOW, t.epoch, t.owner or ''}

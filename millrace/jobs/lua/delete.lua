-- Forgets a job that has ended.
--
-- KEYS: record, index, counts, uploads, webhooks to be made, then all keys of the job; and those of jobs in each state,
--       which ARGV[1] begins
-- ARGV: what the keys of states begin with, id, states it may be in (separated by commas)
-- Returns the state it was in, "" where there is no such job.
local was, kind, upload = unpack(redis.call('HMGET', KEYS[1], 'state', 'kind', 'upload'))
if not was then
  return ''
end
if not string.find(',' .. ARGV[3] .. ',', ',' .. was .. ',', 1, true) then
  return was
end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', ARGV[1] .. was, ARGV[2])
redis.call('HINCRBY', KEYS[3], kind .. ' ' .. was, -1)
redis.call('SREM', KEYS[4], upload)
redis.call('ZREM', KEYS[5], ARGV[2])
redis.call('DEL', unpack(KEYS, 6))
return was

-- Moves a job to another state if it is in one of the given ones, and writes fields of its record with it. Its webhook
-- is due when it has ended.
--
-- KEYS: record, counts, webhooks to be made; and those of jobs in each state, which ARGV[1] begins
-- ARGV: what the keys of states begin with, id, states it may be in (separated by commas), the new state,
--       now in seconds, then fields and values
-- Returns the state it was in, "" where there is no such job.
local was, kind = unpack(redis.call('HMGET', KEYS[1], 'state', 'kind'))
if not was then
  return ''
end
if not string.find(',' .. ARGV[3] .. ',', ',' .. was .. ',', 1, true) then
  return was
end
redis.call('HSET', KEYS[1], 'state', ARGV[4])
if #ARGV > 5 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 6))
end
redis.call('ZREM', ARGV[1] .. was, ARGV[2])
redis.call('ZADD', ARGV[1] .. ARGV[4], ARGV[5], ARGV[2])
redis.call('HINCRBY', KEYS[2], kind .. ' ' .. was, -1)
redis.call('HINCRBY', KEYS[2], kind .. ' ' .. ARGV[4], 1)
local is_final = ARGV[4] ~= 'queued' and ARGV[4] ~= 'started'
if is_final and redis.call('HGET', KEYS[1], 'has_callback') == '1' then
  redis.call('ZADD', KEYS[3], ARGV[5], ARGV[2])
elseif not is_final then
  redis.call('ZREM', KEYS[3], ARGV[2])
end
return was

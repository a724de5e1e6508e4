-- Moves a job to another state if it is in one of the given ones, and writes fields of its record with it.
--
-- KEYS: record, waiting, unfinished, changes
-- ARGV: id, states it may be in (separated by commas), the new state, then fields and values
-- Returns the state it was in, "" where there is no such job.
local was = redis.call('HGET', KEYS[1], 'state')
if not was then
  return ''
end
if not string.find(',' .. ARGV[2] .. ',', ',' .. was .. ',', 1, true) then
  return was
end
redis.call('HSET', KEYS[1], 'state', unpack(ARGV, 3))
redis.call(ARGV[3] == 'queued' and 'SADD' or 'SREM', KEYS[2], ARGV[1])
local is_final = ARGV[3] ~= 'queued' and ARGV[3] ~= 'started'
redis.call(is_final and 'SREM' or 'SADD', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[4], 'MAXLEN', '1', '*', 'state', ARGV[3])
return was

-- Makes a job and puts its first unit into RQ's queue, in one step.
--
-- KEYS: record, index, waiting, unfinished, changes, RQ's job, RQ's queues, RQ's queue
-- ARGV: id, fingerprint, most waiting, now in seconds, number of the record's fields,
--       those fields and values, RQ's id of the unit, then the fields and values of RQ's job
-- Returns "made", "same" (there it is already), "other" (another job has the id), "full".
local found = redis.call('HGET', KEYS[1], 'fingerprint')
if found then
  return found == ARGV[2] and 'same' or 'other'
end
if redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[3]) then
  return 'full'
end
local last = 5 + 2 * tonumber(ARGV[5])
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[2], unpack(ARGV, 6, last))
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('SADD', KEYS[4], ARGV[1])
redis.call('XADD', KEYS[5], 'MAXLEN', '1', '*', 'state', 'queued')
redis.call('HSET', KEYS[6], unpack(ARGV, last + 2))
redis.call('SADD', KEYS[7], KEYS[8])
redis.call('RPUSH', KEYS[8], ARGV[last + 1])
return 'made'

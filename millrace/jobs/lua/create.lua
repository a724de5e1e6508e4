-- Makes a job and puts its first unit into RQ's queue, in one step.
--
-- KEYS: record, index, jobs that are queued, counts, uploads, RQ's job, RQ's queues, RQ's queue
-- ARGV: id, fingerprint, most waiting, now in seconds, kind, upload ("" without one), number of the record's other
--       fields, those fields and values, RQ's id of the unit, then the fields and values of RQ's job
-- Returns "made", "same" (there it is already), "other" (another job has the id), "full".
local found = redis.call('HGET', KEYS[1], 'fingerprint')
if found then
  return found == ARGV[2] and 'same' or 'other'
end
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[3]) then
  return 'full'
end
local last = 7 + 2 * tonumber(ARGV[7])
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[2], 'state', 'queued', 'created_s', ARGV[4], 'kind', ARGV[5],
  'upload', ARGV[6], unpack(ARGV, 8, last))
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
redis.call('HINCRBY', KEYS[4], ARGV[5] .. ' queued', 1)
if ARGV[6] ~= '' then
  redis.call('SADD', KEYS[5], ARGV[6])
end
redis.call('HSET', KEYS[6], unpack(ARGV, last + 2))
redis.call('SADD', KEYS[7], KEYS[8])
redis.call('RPUSH', KEYS[8], ARGV[last + 1])
return 'made'

-- Acknowledge and delete one block; what it held leaves the queue. Does nothing the second time.
-- KEYS  1 request stream   2 what the queue holds
-- ARGV  1 group   2 entry id   3 rows of the block   4 bytes of the block
-- Returns 1 when the block was there, 0 when somebody else had finished it.
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 1 then
  redis.call('HINCRBY', KEYS[2], 'rows', -ARGV[3])
  redis.call('HINCRBY', KEYS[2], 'bytes', -ARGV[4])
  return 1
end
return 0

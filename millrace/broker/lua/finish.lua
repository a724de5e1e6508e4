-- Acknowledge and delete one block; its rows leave the queue. Does nothing the second time.
-- KEYS  1 request stream   2 row counter
-- ARGV  1 group   2 entry id   3 rows of the block
-- Returns 1 when the block was there, 0 when somebody else had finished it.
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
if redis.call('XDEL', KEYS[1], ARGV[2]) == 1 then
  redis.call('DECRBY', KEYS[2], ARGV[3])
  return 1
end
return 0

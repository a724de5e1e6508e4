-- Put blocks on a request stream, all or none, if the queue has room for their rows.
-- KEYS  1 request stream   2 row counter
-- ARGV  1 rows of all the blocks   2 max_queue_rows   3… the blocks
-- Returns -1 when the blocks were added, else the rows that the queue holds: nothing was added then.
local held = tonumber(redis.call('GET', KEYS[2]) or '0')
if held + tonumber(ARGV[1]) > tonumber(ARGV[2]) then
  return held
end
for i = 3, #ARGV do
  redis.call('XADD', KEYS[1], '*', 'b', ARGV[i])
end
redis.call('INCRBY', KEYS[2], ARGV[1])
return -1

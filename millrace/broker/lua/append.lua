-- Put blocks on a request stream, all or none, if the queue has room for them.
-- KEYS  1 request stream   2 what the queue holds
-- ARGV  1 max_queue_rows   2 max_queue_bytes   3… for each block: its rows, the block
-- Returns {} when the blocks were added, else {rows, bytes} that the queue holds: nothing was added then.
local rows, bytes = 0, 0
for i = 3, #ARGV, 2 do
  rows = rows + tonumber(ARGV[i])
  bytes = bytes + #ARGV[i + 1]
end
local held = redis.call('HMGET', KEYS[2], 'rows', 'bytes')
local held_rows, held_bytes = tonumber(held[1] or '0'), tonumber(held[2] or '0')
if held_rows + rows > tonumber(ARGV[1]) or held_bytes + bytes > tonumber(ARGV[2]) then
  return {held_rows, held_bytes}
end
for i = 3, #ARGV, 2 do
  redis.call('XADD', KEYS[1], '*', 'b', ARGV[i + 1], 'r', ARGV[i])
end
redis.call('HINCRBY', KEYS[2], 'rows', rows)
redis.call('HINCRBY', KEYS[2], 'bytes', bytes)
return {}

-- Acknowledge and delete blocks; what they held leaves the queue. Does nothing for a block that was finished before.
-- KEYS  1 what the queue holds   2… request streams
-- ARGV  1 group   2… for each block: the number of its stream among the KEYS, its entry id, rows and bytes
local rows, bytes = 0, 0
for i = 2, #ARGV, 4 do
  local stream = KEYS[tonumber(ARGV[i])]
  redis.call('XACK', stream, ARGV[1], ARGV[i + 1])
  if redis.call('XDEL', stream, ARGV[i + 1]) == 1 then
    rows = rows + ARGV[i + 2]
    bytes = bytes + ARGV[i + 3]
  end
end
if rows + bytes > 0 then
  redis.call('HINCRBY', KEYS[1], 'rows', 0 - rows)
  redis.call('HINCRBY', KEYS[1], 'bytes', 0 - bytes)
end

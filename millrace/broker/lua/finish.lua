-- Acknowledge and delete blocks; what they held leaves the queue. Does nothing for a block that was finished before.
-- KEYS  1 what the queue holds of high and normal   2 of bulk   3 high   4 normal   5 bulk: the request streams
-- ARGV  1 group   2… for each block: the number of its stream among the KEYS, its entry id, rows and bytes
local rows, bytes = {0, 0}, {0, 0}
for i = 2, #ARGV, 4 do
  local number = tonumber(ARGV[i])
  redis.call('XACK', KEYS[number], ARGV[1], ARGV[i + 1])
  if redis.call('XDEL', KEYS[number], ARGV[i + 1]) == 1 then
    local held = number == 5 and 2 or 1
    rows[held] = rows[held] + ARGV[i + 2]
    bytes[held] = bytes[held] + ARGV[i + 3]
  end
end
for held = 1, 2 do
  if rows[held] + bytes[held] > 0 then
    redis.call('HINCRBY', KEYS[held], 'rows', 0 - rows[held])
    redis.call('HINCRBY', KEYS[held], 'bytes', 0 - bytes[held])
  end
end

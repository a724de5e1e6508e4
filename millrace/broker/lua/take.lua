-- Take blocks for a consumer: of high and normal priority, or one of bulk where neither of these has any that waits.
-- KEYS  request streams: high, normal, bulk
-- ARGV  1 group   2 consumer   3 most blocks of each of the first two
local taken =
  redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], KEYS[2], '>', '>')
return taken or redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[3], '>')

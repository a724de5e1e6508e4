-- Let others claim at once what a consumer holds that is gone, and forget the consumer.
-- KEYS  1 request stream
-- ARGV  1 group   2 consumer   3 the name to hold its blocks meanwhile   4 an idle time in ms that is longer than any lease
--       5 by how much to lower the number of each block's deliveries
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 10000, ARGV[2])) do
  local deliveries = math.max(0, pending[4] - ARGV[5])
  redis.call(
    'XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, pending[1], 'IDLE', ARGV[4], 'RETRYCOUNT', deliveries, 'JUSTID'
  )
end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])

-- Renew the leases of all that a consumer holds of one request stream.
-- KEYS  1 request stream
-- ARGV  1 group   2 consumer
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 10000, ARGV[2])) do
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1], 'JUSTID')
end

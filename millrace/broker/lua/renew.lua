-- Renew the lease on one block, if this consumer still holds it.
-- KEYS  1 request stream
-- ARGV  1 group   2 consumer   3 entry id
-- Returns 1 when the lease was renewed, 0 when the block is finished or another consumer's.
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then
  return 0
end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
return 1

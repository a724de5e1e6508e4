-- Publish what a worker has.
-- KEYS  1 the workers
-- ARGV  1 worker   2 its announcement
-- The removal comes first, so that it works at Redis' memory limit, too (see reply.lua).
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])

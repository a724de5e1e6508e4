-- Put the next fragment of a large reply block on its list, unless the API process is gone.
-- KEYS  1 list   2 reply stream
-- ARGV  1 for how long to keep it, in ms   2 fragment
-- What adds nothing comes first, so that it works at Redis' memory limit, too (see reply.lua).
if redis.call('EXISTS', KEYS[2]) == 0 then
  return
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])

-- Note items whose callers went away, until their deadlines; notes whose deadline has passed are dropped on the way.
-- KEYS  1 cancelled items
-- ARGV  1 the time in ms   2… for each item: its deadline in ms, "REPLY_TO ITEM_ID"
-- The removal comes first: at the memory limit a script may add only after it has written something that adds nothing.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
for i = 2, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIREAT', KEYS[1], redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])

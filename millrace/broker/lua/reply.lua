-- Put reply blocks on the reply stream of one API process, unless that process is gone.
-- KEYS  1 reply stream
-- ARGV  1 about how many entries to keep   2… reply blocks
-- Redis refuses what needs memory at its limit only while a script has written nothing. A reply must get through, since
-- the block that it answers can leave the queue only then: hence the trim first.
redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1])
for i = 2, #ARGV do
  redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'b', ARGV[i])
end

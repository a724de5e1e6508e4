-- Take over blocks whose consumer has not renewed its lease, each with the number of times it was delivered.
-- KEYS  request streams: high, normal, bulk
-- ARGV  1 group   2 consumer   3 lease in ms   4 most blocks to take   5, 6 the first and the last of the streams to look at
-- A block that was claimed before and lost again may be what ended its workers: it is taken alone, so that no other block's
-- deliveries are counted up with its own. Of bulk, a block is taken alone, too: nobody who comes waits for more than one.
-- Returns {{number of its stream among the KEYS, entry id, deliveries, fields}, …}. Entries that are no longer in the
-- stream are dropped from the group.
local taken = {}
for number = tonumber(ARGV[5]), tonumber(ARGV[6]) do
  local stream = KEYS[number]
  for _, pending in ipairs(redis.call('XPENDING', stream, ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])) do
    local id, is_alone = pending[1], pending[4] > 1 or number == 3
    if #taken == tonumber(ARGV[4]) or is_alone and #taken > 0 then
      return taken
    end
    local entry = redis.call('XCLAIM', stream, ARGV[1], ARGV[2], ARGV[3], id)[1]
    if entry then
      taken[#taken + 1] = {number, id, pending[4] + 1, entry[2]}
      if is_alone then
        return taken
      end
    else
      redis.call('XACK', stream, ARGV[1], id)
    end
  end
end
return taken

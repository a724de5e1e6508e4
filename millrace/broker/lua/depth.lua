-- What a queue holds, for whoever watches it. Nothing is changed.
-- KEYS  1 2 3 request streams of high, normal, bulk   4 held, of high and normal   5 held, of bulk   6 dead letters
-- Returns {rows, bytes, rows of bulk, bytes of bulk, dead letters, and for each stream: its blocks, how many of them are
-- in work, the id of its oldest block or ''}.
local found = {}
for key = 4, 5 do
  local held = redis.call('HMGET', KEYS[key], 'rows', 'bytes')
  found[#found + 1] = tonumber(held[1] or '0')
  found[#found + 1] = tonumber(held[2] or '0')
end
found[#found + 1] = redis.call('XLEN', KEYS[6])
for key = 1, 3 do
  local blocks = redis.call('XLEN', KEYS[key])
  local working, oldest = 0, ''
  if blocks > 0 then
    local pending = redis.pcall('XPENDING', KEYS[key], 'workers')
    if not pending.err then
      working = pending[1]
    elseif not string.find(pending.err, 'NOGROUP', 1, true) then  -- which means that no worker has come yet
      return pending
    end
    oldest = redis.call('XRANGE', KEYS[key], '-', '+', 'COUNT', 1)[1][1]
  end
  found[#found + 1] = blocks
  found[#found + 1] = working
  found[#found + 1] = oldest
end
return found

-- Put blocks on a request stream, all or none, if the queue has room for them and for what is to be kept for later ones.
-- KEYS  1 request stream   2 what the queue holds, of bulk or of all else   3 room kept for blocks that follow
-- ARGV  1 max_queue_rows   2 max_queue_bytes   3 the room that this append takes its own from, a member of KEYS[3], or ""
--       4 the room that is kept from now on, or ""   5 the time in ms from which on that is given up
--       6… for each block: its rows, the block
-- Room is "ID ROWS BYTES". It counts as held from the append that keeps it. So what takes from room that is still there
-- is always admitted; an append of no blocks that keeps none gives the room back. Room that was given up, or lost with
-- Redis' memory, is as none.
-- Room whose time has passed is given up from half of the limits on, where callers are held to fair shares.
-- Returns {1 if admitted, rows, bytes}: what the queue holds then, or what it holds already.
local function size_of_room(room)
  local rows, bytes = string.match(room, ' (%d+) (%d+)$')
  return tonumber(rows or '0'), tonumber(bytes or '0')
end

local function give_up_expired(now)
  for _, room in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now[1] * 1000 + math.floor(now[2] / 1000))) do
    local rows, bytes = size_of_room(room)
    redis.call('ZREM', KEYS[3], room)
    redis.call('HINCRBY', KEYS[2], 'rows', -rows)
    redis.call('HINCRBY', KEYS[2], 'bytes', -bytes)
  end
end

local function held()
  local found = redis.call('HMGET', KEYS[2], 'rows', 'bytes')
  return tonumber(found[1] or '0'), tonumber(found[2] or '0')
end

local rows, bytes = size_of_room(ARGV[4])
for i = 6, #ARGV, 2 do
  rows = rows + tonumber(ARGV[i])
  bytes = bytes + (string.match(ARGV[i + 1], '^MF %S+ %d+ (%d+)$') or #ARGV[i + 1])  -- see fragments.py
end
local is_kept = ARGV[3] ~= '' and redis.call('ZREM', KEYS[3], ARGV[3]) == 1
if is_kept then
  local kept_rows, kept_bytes = size_of_room(ARGV[3])
  rows, bytes = rows - kept_rows, bytes - kept_bytes
end
local held_rows, held_bytes = held()
local function is_beyond(part)
  return held_rows + rows > tonumber(ARGV[1]) * part or held_bytes + bytes > tonumber(ARGV[2]) * part
end
if not is_kept and is_beyond(0.5) then
  give_up_expired(redis.call('TIME'))
  held_rows, held_bytes = held()
  if is_beyond(1) then
    return {0, held_rows, held_bytes}
  end
end
for i = 6, #ARGV, 2 do
  redis.call('XADD', KEYS[1], '*', 'b', ARGV[i + 1], 'r', ARGV[i])
end
if ARGV[4] ~= '' then
  redis.call('ZADD', KEYS[3], ARGV[5], ARGV[4])
end
if rows ~= 0 or bytes ~= 0 then
  held_rows = redis.call('HINCRBY', KEYS[2], 'rows', rows)
  held_bytes = redis.call('HINCRBY', KEYS[2], 'bytes', bytes)
end
return {1, held_rows, held_bytes}

-- Rotates over the requests of the file $BENCH_DATA and checks every answer against the scores that belong to them.
--
-- wrk does not say which connection an answer came on. With one connection the answer is that of the last request. With
-- more it must be that of a request on its way: asked[i] counts those of item i that have no answer yet. What that cannot
-- see, two answers that changed places between wrk's own connections, is left to the checker beside it (load.py).
local ffi = require("ffi")
local data = dofile(os.getenv("BENCH_DATA"))
local count, width, marker = #data.bodies, #data.expected[1], data.marker
local floats = ffi.new("float[?]", width)
local requests, asked, known, known_count = {}, {}, {}, 0
local last, threads = 0, {}
checked, wrong = 0, 0

function setup(thread) threads[#threads + 1] = thread end

function init()
  for i, body in ipairs(data.bodies) do
    requests[i], asked[i] = wrk.format("POST", nil, data.headers, body), 0
  end
end

function request()
  last = last % count + 1
  asked[last] = asked[last] + 1
  return requests[last]
end

local function scores(body)
  local found = {}
  if marker == "" then
    if #body < 4 * width then return nil end
    ffi.copy(floats, body:sub(-4 * width), 4 * width)
    for k = 1, width do found[k] = tonumber(floats[k - 1]) end
    return found
  end
  local _, at = body:find(marker, 1, true)
  if not at then return nil end
  for number in body:sub(at + 1):gmatch("-?%d[%d%.eE+-]*") do
    found[#found + 1] = tonumber(number)
    if #found == width then return found end
  end
end

local function is_near(found, expected)
  for k = 1, width do
    if math.abs(found[k] - expected[k]) > data.tolerance then return false end
  end
  return true
end

local function item_of(body)
  local found = scores(body)
  for i = 1, found and count or 0 do
    if is_near(found, data.expected[i]) then return i end
  end
  return 0
end

function response(status, _, body)
  if status ~= 200 then return end -- wrk counts it
  local item = known[body]
  if not item then
    if known_count >= 8192 then known, known_count = {}, 0 end
    item = item_of(body)
    known[body], known_count = item, known_count + 1
  end
  checked = checked + 1
  if item == 0 or (data.alone and not is_near(data.expected[item], data.expected[last])) then
    wrong = wrong + 1
  elseif data.distinct then
    asked[item] = asked[item] - 1
    if asked[item] < 0 then wrong = wrong + 1 end
  end
end

function done(summary, latency)
  local e, all_checked, all_wrong = summary.errors, 0, 0
  for _, thread in ipairs(threads) do
    all_checked, all_wrong = all_checked + thread:get("checked"), all_wrong + thread:get("wrong")
  end
  print(string.format(
    '{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"max_ms":%f,"errors":%d,"checked":%d,"wrong":%d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency.max / 1e3, e.connect + e.read + e.write + e.status + e.timeout, all_checked, all_wrong))
end

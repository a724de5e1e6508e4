-- Put the desired state of a model in the place of one that is not newer than its writer knew.
-- KEYS  1 the documents
-- ARGV  1 model   2 the newest generation that may be replaced   3 document, or '' to delete the one that is there
-- Returns nothing when it was written, else the newer document that is there. What is no document is replaced.
-- The removal comes first, so that it works at Redis' memory limit, too (see reply.lua).
local stored = redis.call('HGET', KEYS[1], ARGV[1])
local is_document, document = pcall(cjson.decode, stored)
if is_document and type(document) == 'table' and (tonumber(document.generation) or 0) > tonumber(ARGV[2]) then
  return stored
end
redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return false

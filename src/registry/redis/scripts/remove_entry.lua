-- conn:<user> or a bucket; field, stamp: removes the field unless a later stamp stands there. Stamps of a life only
-- rise, and a removal is of the last one given: an earlier one is what a write that never came was to replace.
local stored = tonumber(redis.call('HGET', KEYS[1], ARGV[1]))
if stored and stored <= tonumber(ARGV[2]) then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0

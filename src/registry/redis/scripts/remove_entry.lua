-- conn:<user> or a bucket; field, stamp: removes the field only if it is still the one that was seen.
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0

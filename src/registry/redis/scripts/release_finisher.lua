-- shard:<n>; finisher, epoch of the shard
local record = redis.call('HMGET', KEYS[1], 'finisher', 'epoch', 'state')
if record[1] == ARGV[1] and record[2] == ARGV[2] and record[3] == 'finishing' then
  redis.call('HSET', KEYS[1], 'state', 'released', 'until', digits(now))
  redis.call('HDEL', KEYS[1], 'finisher', 'wanted')
end
return granted(0)

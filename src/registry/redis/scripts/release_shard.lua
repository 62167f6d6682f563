-- shard:<n>; gateway, its epoch, epoch of the shard
local record = redis.call('HMGET', KEYS[1], 'gateway', 'life', 'epoch', 'state')
if record[1] == ARGV[1] and record[2] == ARGV[2] and record[3] == ARGV[3] and record[4] == 'held' then
  redis.call('HSET', KEYS[1], 'state', 'released', 'until', digits(now))
end
return granted(tonumber(ARGV[3]))

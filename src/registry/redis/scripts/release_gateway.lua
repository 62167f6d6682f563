-- gw:<id>; epoch
local record = redis.call('HMGET', KEYS[1], 'epoch', 'state')
if record[1] == ARGV[1] and record[2] == 'held' then
  redis.call('HSET', KEYS[1], 'state', 'released', 'until', digits(now))
end
return granted(tonumber(ARGV[1]))

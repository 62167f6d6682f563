-- shard:<n>; gateway, its epoch, epoch of the shard, lease_ms
local record = redis.call('HMGET', KEYS[1], 'gateway', 'life', 'epoch', 'state')
local epoch, ours = tonumber(record[3]) or 0, tonumber(ARGV[3])
local same = epoch == ours and record[1] == ARGV[1] and record[2] == ARGV[2] and record[4] == 'held'
if epoch >= ours and not same then return lost(epoch) end
redis.call('HSET', KEYS[1], 'gateway', ARGV[1], 'life', ARGV[2], 'epoch', ARGV[3],
  'state', 'held', 'until', digits(now + ARGV[4]))
return granted(ours)

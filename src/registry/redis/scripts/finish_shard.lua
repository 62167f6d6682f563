-- shard:<n>; finisher, lease_ms, claimable_after_ms, finish_after_ms
local record = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'until', 'finisher')
local epoch, until_ms = tonumber(record[1]) or 0, tonumber(record[3]) or 0
local function hold(new_epoch)
  -- The last owner stays written: the shard goes back to it before it goes to anyone else.
  redis.call('HSET', KEYS[1], 'finisher', ARGV[1], 'epoch', digits(new_epoch),
    'state', 'finishing', 'until', digits(now + ARGV[2]))
  return granted(new_epoch)
end
if record[2] == 'finishing' and record[4] == ARGV[1] then return hold(epoch) end
if not record[2] then
  until_ms = now + ARGV[3]
  redis.call('HSET', KEYS[1], 'state', 'waiting', 'until', digits(until_ms))
end
-- Gateways go first, whatever it waits for: a renewal, an owner that remembers, another finisher.
local free_ms = until_ms + ARGV[4]
if free_ms > now then return claimable(free_ms - now) end
redis.call('HDEL', KEYS[1], 'wanted')
return hold(math.max(epoch + 1, now))

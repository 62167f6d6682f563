-- shard:<n>; finisher, epoch of the shard, lease_ms. Grants 1 when a gateway wants the shard, else 0.
local record = redis.call('HMGET', KEYS[1], 'finisher', 'epoch', 'state', 'wanted')
if record[1] ~= ARGV[1] or record[2] ~= ARGV[2] or record[3] ~= 'finishing' then
  return lost(tonumber(record[2]) or 0)
end
redis.call('HSET', KEYS[1], 'until', digits(now + ARGV[3]))
return granted(record[4] and 1 or 0)

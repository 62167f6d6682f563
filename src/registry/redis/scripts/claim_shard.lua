-- shard:<n>; gateway, its epoch, former epoch of the shard or '', lease_ms, claimable_after_ms
local record = redis.call('HMGET', KEYS[1], 'gateway', 'life', 'epoch', 'state', 'until', 'finisher')
local life, epoch, until_ms = tonumber(record[2]) or 0, tonumber(record[3]) or 0, tonumber(record[5]) or 0
local former = tonumber(ARGV[3])
local function own(new_epoch)
  redis.call('HSET', KEYS[1], 'gateway', ARGV[1], 'life', ARGV[2], 'epoch', digits(new_epoch),
    'state', 'held', 'until', digits(now + ARGV[4]))
  redis.call('HDEL', KEYS[1], 'finisher', 'wanted')
  return granted(new_epoch)
end
-- Who remembers goes on, under what it remembers: a higher memory can still replace it.
if former and former > epoch then return own(former) end
if not record[4] and tonumber(ARGV[5]) > 0 then
  redis.call('HSET', KEYS[1], 'state', 'waiting', 'until', digits(now + ARGV[5]))
  return claimable(tonumber(ARGV[5]))
end
if record[4] == 'waiting' then
  if until_ms > now then return claimable(until_ms - now) end
  return own(now)
end
if record[4] == 'held' then
  local same_gateway = record[1] == ARGV[1]
  if same_gateway and life == tonumber(ARGV[2]) then return own(epoch) end
  -- The gateway's own lease has fenced its older lives off.
  local older_life = same_gateway and life < tonumber(ARGV[2])
  if until_ms > now and not older_life then return held(record[1] .. '.' .. record[2], until_ms) end
end
-- Its finisher meets the mark with its next renewal, and yields.
if record[4] == 'finishing' and until_ms > now then
  redis.call('HSET', KEYS[1], 'wanted', ARGV[1])
  return finishing(record[6], until_ms)
end
return own(math.max(epoch + 1, now))

-- gw:<id>; holder, info, lease_ms, past_lives_max
local record = redis.call('HMGET', KEYS[1], 'epoch', 'holder', 'state', 'until', 'past')
local epoch, until_ms, past = tonumber(record[1]) or 0, tonumber(record[4]) or 0, record[5] or ''
if record[3] == 'held' and until_ms > now and record[2] ~= ARGV[1] then
  return held(record[2], until_ms)
end
-- A swept record was raised, and remembers the life that ended then.
if epoch > 0 and record[3] ~= 'swept' then past = with_life(past, epoch, tonumber(ARGV[4])) end
local new_epoch = math.max(epoch + 1, now)
redis.call('HSET', KEYS[1], 'epoch', digits(new_epoch), 'holder', ARGV[1], 'state', 'held',
  'until', digits(now + ARGV[3]), 'info', ARGV[2], 'past', past)
return granted(new_epoch)

-- gw:<id>; epoch, holder, info, lease_ms, past_lives_max
local record = redis.call('HMGET', KEYS[1], 'epoch', 'holder', 'state', 'past')
local epoch, ours, past = tonumber(record[1]) or 0, tonumber(ARGV[1]), record[4] or ''
local same = epoch == ours and record[2] == ARGV[2] and record[3] == 'held'
if epoch >= ours and not same then return lost(epoch) end
-- Below ours: Redis came back with an older state, or empty. What we know is newer.
if epoch > 0 and not same and record[3] ~= 'swept' then
  past = with_life(past, epoch, tonumber(ARGV[5]))
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'holder', ARGV[2], 'state', 'held',
  'until', digits(now + ARGV[4]), 'info', ARGV[3], 'past', past)
return granted(ours)

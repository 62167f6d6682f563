-- gw:<id>; sweep_after_ms, past_lives_max. Grants epoch 0 when there is nothing to raise.
local record = redis.call('HMGET', KEYS[1], 'epoch', 'state', 'until', 'past')
local epoch = tonumber(record[1])
if not epoch or record[2] == 'swept' or tonumber(record[3]) + ARGV[1] > now then return granted(0) end
redis.call('HSET', KEYS[1], 'epoch', digits(epoch + 1), 'state', 'swept',
  'past', with_life(record[4], epoch, tonumber(ARGV[2])))
return granted(epoch + 1)

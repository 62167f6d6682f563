-- claim of a send; owner, lease_ms, what stands there once it is done
local owner = redis.call('GET', KEYS[1])
if not owner then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return granted(0)
end
if owner == ARGV[3] then return {'done', '', 0, 0} end
return held(owner, now + redis.call('PTTL', KEYS[1]))

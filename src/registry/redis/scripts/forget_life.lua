-- gw:<id>; epoch of an ended life that left no entry
local rest = {}
for life in string.gmatch(redis.call('HGET', KEYS[1], 'past') or '', '%d+') do
  if life ~= ARGV[1] then rest[#rest + 1] = life end
end
redis.call('HSET', KEYS[1], 'past', table.concat(rest, ','))
return granted(tonumber(ARGV[1]))

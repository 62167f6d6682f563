-- sum of a day; cost (below 0: given back), the most it may become or 'none', how long it is kept in ms
local total = tonumber(redis.call('GET', KEYS[1]) or '0')
local cost, most = tonumber(ARGV[1]), tonumber(ARGV[2])
if cost == 0 then return granted(total) end
local sum = math.max(0, total + cost)
if most and cost > 0 and sum > most then return {'over', '', total, 0} end
redis.call('SET', KEYS[1], digits(sum), 'PX', ARGV[3])
return granted(sum)

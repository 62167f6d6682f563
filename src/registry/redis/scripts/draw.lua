-- A share of a rate; µs of one, µs of a burst, how many, 1: whether or not they are there. Its key holds when it is whole
-- again, µs. Answers how many, and how much is taken, µs.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local each, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ahead = math.max(0, tonumber(redis.call('GET', KEYS[1]) or 0) - now)
local taken = wanted
if ARGV[4] ~= '1' then
  taken = math.max(0, math.min(wanted, math.floor((burst - ahead) / each + 1e-6)))
end
if taken > 0 then
  ahead = math.min(ahead + taken * each, burst * 2)
  redis.call('SET', KEYS[1], string.format('%.0f', now + ahead), 'PX', string.format('%.0f', ahead / 1000 + 1000))
end
return {taken, string.format('%.0f', ahead)}

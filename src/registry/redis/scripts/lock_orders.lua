-- orders; holder, for_ms
local record = redis.call('HMGET', KEYS[1], 'holder', 'until')
local until_ms = tonumber(record[2]) or 0
-- One that lasts longer than any does was taken before the clock went back.
local lasts = until_ms > now and until_ms - now <= tonumber(ARGV[2])
if lasts and record[1] ~= ARGV[1] then return held(record[1], until_ms) end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', digits(now + ARGV[2]))
return granted(0)

-- Which notifications reach a user; how many may, in how many ms, their ids. Answers 1 or 0 for each.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local most, window = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - window))
local count, admitted, answers = redis.call('ZCARD', KEYS[1]), false, {}
for at = 3, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[at]) then
    answers[#answers + 1] = 1
  elseif count < most then
    redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[at])
    count, admitted = count + 1, true
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
if admitted then redis.call('PEXPIRE', KEYS[1], window) end
return answers

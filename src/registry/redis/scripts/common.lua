-- Stands before every script. All of them answer {code, text, number, number}.
local time = redis.call('TIME')
-- Milliseconds on Redis's own clock, the only one that leases are judged by.
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function digits(number) return string.format('%.0f', number) end
local function granted(epoch) return {'granted', '', epoch, 0} end
local function held(holder, until_ms) return {'held', holder, until_ms, until_ms - now} end
local function finishing(finisher, until_ms) return {'finishing', finisher, until_ms, until_ms - now} end
local function lost(epoch) return {'lost', '', epoch, 0} end
local function claimable(in_ms) return {'claimable', '', in_ms, 0} end
-- The list of ended lives with one more; the oldest go first when it is full.
local function with_life(past, epoch, lives_max)
  local lives = {}
  for life in string.gmatch(past or '', '%d+') do lives[#lives + 1] = life end
  lives[#lives + 1] = digits(epoch)
  return table.concat(lives, ',', math.max(1, #lives - lives_max + 1))
end

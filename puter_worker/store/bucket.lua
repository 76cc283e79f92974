-- Takes tokens from all of several buckets, or from none: one call may cost a call token and a hundred instance tokens.
-- KEYS: the buckets. ARGV: a name for the call ('' if it reaches EC2 at once, '?' only to read, '!' and the name if it
-- has arrived), and for how many seconds at most it is in flight; then, for each bucket: its size, its refill a second, its
-- reserve (tokens that stay in it unless it is full), and how many tokens to take (a negative number gives them back).
-- Returns two texts: how many whole tokens the first bucket could give, and the seconds to wait (0: they were taken).
-- After a refusal of EC2's a bucket has a lower rate ('factor') until 'slow_until'.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local landed = string.match(ARGV[1], '^!(.*)')
local call, for_s, look = 'sent:' .. (landed or ARGV[1]), tonumber(ARGV[2]), ARGV[1] == '?'

-- EC2's own bucket may be full until a call reaches it, so the tokens of a call in flight do not refill here yet.
local function on_its_way(key)
  local sum, fields = 0, redis.call('HGETALL', key)
  for n = 1, #fields, 2 do
    if string.sub(fields[n], 1, 5) == 'sent:' then
      local amount, till = string.match(fields[n + 1], '^(%S+) (%S+)$')
      if tonumber(till) < now or tonumber(till) > now + 60 then  -- later: Redis's clock was set back
        redis.call('HDEL', key, fields[n])
      else
        sum = sum + tonumber(amount)
      end
    end
  end
  return sum
end

local wait, first, held = 0, 0, {}
for i, key in ipairs(KEYS) do
  local size, rate = tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
  local reserve, amount = tonumber(ARGV[4 * i + 1]), tonumber(ARGV[4 * i + 2])
  local state = redis.call('HMGET', key, 'tokens', 'at', 'slow_until', 'factor')
  local at = tonumber(state[2]) or now
  if state[3] and now < tonumber(state[3]) and tonumber(state[3]) < now + 600 then
    rate = rate * tonumber(state[4])
    size = math.max(1, size * tonumber(state[4]))
  end
  local most = math.max(0, size - on_its_way(key))
  local tokens = math.min(most, (tonumber(state[1]) or size) + math.max(0, now - at) * rate)
  held[i] = tokens
  local free = tokens < size and tokens - reserve or tokens
  if i == 1 then
    first = math.floor(free)
  end
  -- A call that needs more than the bucket's size is let through when the bucket is full, and the rest is owed:
  -- otherwise it could never be sent.
  local needed = math.min(amount, size)
  if amount > 0 and free < needed then
    wait = math.max(wait, (needed - free) / rate)
  end
end
for i, key in ipairs(look and {} or KEYS) do
  local taken = wait == 0 and tonumber(ARGV[4 * i + 2]) or 0
  redis.call('HSET', key, 'tokens', tostring(held[i] - taken), 'at', string.format('%.6f', now))
  if landed then
    redis.call('HDEL', key, call)  -- after 'tokens' and 'at' are written: the time in flight has refilled nothing
  elseif taken ~= 0 and ARGV[1] ~= '' then
    local before = string.match(redis.call('HGET', key, call) or '', '^(%S+) ') or 0
    redis.call('HSET', key, call, string.format('%d %.6f', before + taken, now + for_s))
  end
  redis.call('EXPIRE', key, 7200)
end
return {tostring(first), tostring(wait)}

-- Takes tokens from several buckets at once, or from none: a call may cost one call and a hundred instances.
-- KEYS: buckets. ARGV: a name for the call ('' if it reaches EC2 at once), for how many seconds at most it is on its
-- way there; then, for each bucket, its size, its refill a second, what is left in it once it is no longer full, and
-- what is taken (less than nothing is given back).
-- Answers two texts: how many whole tokens the first bucket had to give, and the seconds to wait (0: they were taken).
-- A bucket remembers a slower rate that EC2's refusals taught it; it recovers by itself in time.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local call, for_s = 'sent:' .. ARGV[1], tonumber(ARGV[2])

-- EC2's bucket is full until a call reaches it: as long as one is on its way, its tokens cannot come back.
local function on_its_way(key)
  local sum, fields = 0, redis.call('HGETALL', key)
  for n = 1, #fields, 2 do
    if string.sub(fields[n], 1, 5) == 'sent:' then
      local amount, till = string.match(fields[n + 1], '^(%S+) (%S+)$')
      if tonumber(till) < now then
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
  if state[3] and now < tonumber(state[3]) then
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
  -- More than a bucket holds is let through when it is full, and owed: it could never be had otherwise.
  local needed = math.min(amount, size)
  if amount > 0 and free < needed then
    wait = math.max(wait, (needed - free) / rate)
  end
end
for i, key in ipairs(KEYS) do
  local taken = wait == 0 and tonumber(ARGV[4 * i + 2]) or 0
  redis.call('HSET', key, 'tokens', tostring(held[i] - taken), 'at', string.format('%.6f', now))
  if taken ~= 0 and ARGV[1] ~= '' then
    local before = string.match(redis.call('HGET', key, call) or '', '^(%S+) ') or 0
    redis.call('HSET', key, call, string.format('%d %.6f', before + taken, now + for_s))
  end
  redis.call('EXPIRE', key, 7200)
end
return {tostring(first), tostring(wait)}

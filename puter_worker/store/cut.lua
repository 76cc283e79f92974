-- Cuts an inbox to a size, for a Redis that is almost full: its newest requests are dropped. All of it is measured, for a
-- client chooses what it holds. The head stays, which an intake may have read.
-- KEYS: inbox. ARGV: bytes that it may take. Returns how many requests were dropped.
local before = redis.call('LLEN', KEYS[1])
local left = before
while left > 1 and redis.call('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 0) > tonumber(ARGV[1]) do
  left = math.floor(left / 2)
  redis.call('LTRIM', KEYS[1], 0, left - 1)
end
return before - left

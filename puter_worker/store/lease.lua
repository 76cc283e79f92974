-- Takes or renews a lease of ARGV[2] ms for the holder ARGV[1].
-- Returns 0 if the holder has it now, else for how many ms another holder still has it.
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 0
end
return math.max(1, redis.call('PTTL', KEYS[1]))

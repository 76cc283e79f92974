-- Takes or renews a lease of ARGV[2] ms for the holder ARGV[1]; answers 1 if it is its own now.
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return 0

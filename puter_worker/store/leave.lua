-- Takes a namespace off a list of those with something that waits, if nothing of it does.
if redis.call('ZCARD', KEYS[2]) == 0 then
  return redis.call('SREM', KEYS[1], ARGV[1])
end
return 0

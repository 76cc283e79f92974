-- Takes a namespace off the fleet's list of launchpads if its own is empty.
if redis.call('ZCARD', KEYS[2]) == 0 then
  return redis.call('SREM', KEYS[1], ARGV[1])
end
return 0

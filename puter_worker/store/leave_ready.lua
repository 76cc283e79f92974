-- Takes a namespace off the ready set if its inbox is empty; a client rings in the same transaction in which it appends.
if redis.call('LLEN', KEYS[1]) == 0 then
  return redis.call('SREM', KEYS[2], ARGV[1])
end
return 0

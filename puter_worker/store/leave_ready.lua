-- Removes a namespace from the ready set if its inbox is empty. Clients add it in the transaction that appends to it.
if redis.call('LLEN', KEYS[1]) == 0 then
  return redis.call('SREM', KEYS[2], ARGV[1])
end
return 0

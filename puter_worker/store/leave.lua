-- Removes a namespace (ARGV[1]) from a set of namespaces (KEYS[1]) if its sorted set of items (KEYS[2]) is empty.
if redis.call('ZCARD', KEYS[2]) == 0 then
  return redis.call('SREM', KEYS[1], ARGV[1])
end
return 0

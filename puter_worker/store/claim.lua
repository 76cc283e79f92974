-- Claims due members of a sorted set: each is due again at `until`, unless the worker that claimed it removes it.
-- ARGV: now, until, how many members at most.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, member in ipairs(due) do
  redis.call('ZADD', KEYS[1], 'XX', ARGV[2], member)
end
return due

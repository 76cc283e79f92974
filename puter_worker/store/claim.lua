-- Claims due members of a sorted set: each is due again at `until`, unless the worker that claimed it removes it.
-- ARGV: now, until, how many members at most, and the latest time at which a member may be due: one that is due later
-- was added before Redis's clock was set back, and is due now.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {}  -- what idles asks as little as it can
end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[4], '+inf', 'LIMIT', 0, ARGV[3])
local room = tonumber(ARGV[3]) - #due
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, room)) do
  due[#due + 1] = member
end
for _, member in ipairs(due) do
  redis.call('ZADD', KEYS[1], 'XX', ARGV[2], member)
end
return due

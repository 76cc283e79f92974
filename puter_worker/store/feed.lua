-- Moves tags from a namespace's backlog into arq's queue, as many as the namespace has room for there.
-- KEYS: backlog, places, backlogs, arq's queue, moving. ARGV: namespace, now (ms), room of a namespace, restart after
-- (s), place kept for (s), job kept for (ms), backlog kept for (s), arq's prefixes of locks and of jobs.
-- The job's body is what arq's own enqueue_job would store with a JSON serializer; the alphabets of namespaces
-- and tags have no character that JSON escapes.
local now, fed = tonumber(ARGV[2]), 0
-- A place becomes free when its job starts; the place of a job that was lost becomes free after a while.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[5]) * 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], now + tonumber(ARGV[5]) * 1000, '+inf')  -- Redis's clock was set back
local room = tonumber(ARGV[3]) - redis.call('ZCARD', KEYS[2])
for _ = 1, math.min(room, redis.call('LLEN', KEYS[1])) do
  local tag = redis.call('LPOP', KEYS[1])
  local id = ARGV[1] .. '/' .. tag
  if redis.call('EXISTS', ARGV[8] .. id) == 1 then
    -- The key's job is running. It may have read the record before it changed, and its end will remove the id from
    -- the queue: keep the tag in the backlog.
    redis.call('RPUSH', KEYS[1], tag)
    redis.call('EXPIRE', KEYS[1], ARGV[7])
  else
    local body = '{"t":null,"f":"ensure_puter","a":["' .. ARGV[1] .. '","' .. tag .. '"],"k":{},"et":' .. ARGV[2] .. '}'
    redis.call('SET', ARGV[9] .. id, body, 'NX', 'PX', ARGV[6])
    redis.call('ZADD', KEYS[4], 'NX', now, id)
    redis.call('ZADD', KEYS[2], now, tag)
    redis.call('ZADD', KEYS[5], 'XX', now / 1000 + tonumber(ARGV[4]), id)
    fed = fed + 1
  end
end
if redis.call('LLEN', KEYS[1]) == 0 then
  redis.call('SREM', KEYS[3], ARGV[1])
end
redis.call('EXPIRE', KEYS[2], 3600)
return fed

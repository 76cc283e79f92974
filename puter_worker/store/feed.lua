-- Gives tags of a namespace's backlog a place in arq's queue, as far as the namespace has room there.
-- KEYS: backlog, fed, backlogs, arq queue, moving. ARGV: namespace, now (ms), room of a namespace, restart after (s).
-- The job's body is what arq's own enqueue_job would store with a JSON serializer; the alphabets of namespaces
-- and tags hold nothing that JSON escapes.
local now, fed = tonumber(ARGV[2]), 0
-- A place is given back when its job starts; one that was lost is free again after a minute.
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 60000)
local room = tonumber(ARGV[3]) - redis.call('ZCARD', KEYS[2])
for _ = 1, math.min(room, redis.call('LLEN', KEYS[1])) do
  local tag = redis.call('LPOP', KEYS[1])
  local id = ARGV[1] .. '/' .. tag
  if redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 then
    -- The job that runs now may have read the record before it changed, and its end takes its id out of the queue.
    redis.call('RPUSH', KEYS[1], tag)
    redis.call('EXPIRE', KEYS[1], 2678400)
  else
    local body = '{"t":null,"f":"ensure_puter","a":["' .. ARGV[1] .. '","' .. tag .. '"],"k":{},"et":' .. ARGV[2] .. '}'
    redis.call('SET', 'arq:job:' .. id, body, 'NX', 'PX', 86400000)
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

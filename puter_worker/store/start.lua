-- Locks the jobs of arq's queue that are due and that nobody runs, for as long as they may run.
-- A job that runs gives its namespace's place in the queue to another.
-- KEYS: arq's queue. ARGV: now (ms), for how long to lock (ms), what a namespace's set of places begins with, ids.
-- Answers id and score of each that is locked now.
local locked = {}
for n = 4, #ARGV do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[n])
  if score and tonumber(score) <= tonumber(ARGV[1])
    and redis.call('SET', 'arq:in-progress:' .. ARGV[n], '1', 'NX', 'PX', ARGV[2]) then
    local namespace, tag = string.match(ARGV[n], '^([^/]*)/(.*)$')
    redis.call('ZREM', ARGV[3] .. namespace, tag)
    locked[#locked + 1] = ARGV[n]
    locked[#locked + 1] = score
  end
end
return locked

-- Locks the jobs of arq's queue that are due and that nobody runs, for as long as they may run.
-- A job that runs gives its namespace's place in the queue to another. MachineRequest twice by the same, it answers the same.
-- KEYS: arq's queue. ARGV: now (ms), for how long to lock (ms), what a namespace's set of places begins with, a name
-- of whoever asks, ids. Answers id and score of each that is locked by whoever asks.
local locked = {}
for n = 5, #ARGV do
  local lock, score = 'arq:in-progress:' .. ARGV[n], redis.call('ZSCORE', KEYS[1], ARGV[n])
  if score and tonumber(score) <= tonumber(ARGV[1])
    and (redis.call('SET', lock, ARGV[4], 'NX', 'PX', ARGV[2]) or redis.call('GET', lock) == ARGV[4]) then
    local namespace, tag = string.match(ARGV[n], '^([^/]*)/(.*)$')
    if namespace then
      redis.call('ZREM', ARGV[3] .. namespace, tag)
    end
    locked[#locked + 1] = ARGV[n]
    locked[#locked + 1] = score
  end
end
return locked

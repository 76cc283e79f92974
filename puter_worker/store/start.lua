-- Locks those of the given jobs that are due and that no worker runs, for as long as they may run.
-- When a job starts, its namespace's place in the queue becomes free. A repeated call of one holder gets one answer.
-- KEYS: arq's queue. ARGV: now (ms), how long to lock (ms), arq's prefix of locks, the prefix of the sets of places,
-- the holder's name, the latest time at which a job may be due (ms; one that is due later was queued before Redis's
-- clock was set back, and is due now), then job ids. Returns the id and score of each job that the holder has locked.
local locked = {}
for n = 7, #ARGV do
  local lock, score = ARGV[3] .. ARGV[n], redis.call('ZSCORE', KEYS[1], ARGV[n])
  local due = score and (tonumber(score) <= tonumber(ARGV[1]) or tonumber(score) > tonumber(ARGV[6]))
  if due
    and (redis.call('SET', lock, ARGV[5], 'NX', 'PX', ARGV[2]) or redis.call('GET', lock) == ARGV[5]) then
    local namespace, tag = string.match(ARGV[n], '^([^/]*)/(.*)$')
    if namespace then
      redis.call('ZREM', ARGV[4] .. namespace, tag)
    end
    locked[#locked + 1] = ARGV[n]
    locked[#locked + 1] = score
  end
end
return locked

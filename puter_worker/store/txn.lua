-- Compare, then write: all commands or none.
-- ARGV: number of guards; each guard as kind, key, field, expected; then each command as its length and its words.
-- Answers the 1-based numbers of the guards that did not hold; nothing was written unless there are none.
local at = 1
local function word()
  local value = ARGV[at]
  at = at + 1
  return value
end

local broken = {}
for number = 1, tonumber(word()) do
  local kind, key, field, expected = word(), word(), word(), word()
  local holds
  if kind == 'hash' then         -- the field has this value
    holds = redis.call('HGET', key, field) == expected
  elseif kind == 'no-hash' then  -- the field is not there
    holds = not redis.call('HGET', key, field)
  elseif kind == 'member' then   -- the sorted set holds this member
    holds = redis.call('ZSCORE', key, field)
  elseif kind == 'head' then     -- the list begins with exactly this
    holds = redis.call('LINDEX', key, 0) == expected
  elseif kind == 'size' then     -- the set holds that many
    holds = redis.call('SCARD', key) == tonumber(expected)
  elseif kind == 'length' then   -- the list is that long
    holds = redis.call('LLEN', key) == tonumber(expected)
  else
    return redis.error_reply('ERR unknown kind of guard')
  end
  if not holds then
    broken[#broken + 1] = number
  end
end
if #broken > 0 then
  return broken
end

while at <= #ARGV do
  local size = tonumber(word())
  redis.call(unpack(ARGV, at, at + size - 1))
  at = at + size
end
return broken

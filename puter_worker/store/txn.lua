-- Checks guards, then writes. Redis runs nothing else meanwhile, so no guard can change between check and commands.
-- ARGV: {guards, commands, places} in MessagePack; a guard is {kind, key, field, expected}, a command is a list of
-- words. Words that are bytes follow: the MessagePack of Redis's Lua cannot carry bytes that are not text. The place of
-- the nth is places[n]: {1 for guards or 2 for commands, number there, number of the word, in how many arguments it
-- comes}. In how many the MessagePack comes is ARGV[1]: Redis limits the size of one argument, not of all.
-- Returns the 1-based numbers of the guards that did not hold; if there is one, nothing was written.
-- If Redis refuses a command (out of memory, wrong type), the script ends there: earlier commands stay written.
local at = 2
local function joined(parts)
  local value = parts == 1 and ARGV[at] or table.concat(ARGV, '', at, at + parts - 1)
  at = at + parts
  return value
end

local sent = cmsgpack.unpack(joined(tonumber(ARGV[1])))
local guards, commands, places = unpack(sent)
for _, place in ipairs(places) do
  sent[place[1]][place[2]][place[3]] = joined(place[4])
end

local holds = {
  ['hash'] = function(key, field, expected)  -- the field has this value
    return redis.call('HGET', key, field) == expected
  end,
  ['no-hash'] = function(key, field)         -- the field does not exist
    return not redis.call('HGET', key, field)
  end,
  ['member'] = function(key, member)         -- the sorted set holds this member
    return redis.call('ZSCORE', key, member)
  end,
  ['score'] = function(key, member, expected)  -- the sorted set holds this member with this score
    local score = redis.call('ZSCORE', key, member)
    return score and tonumber(score) == expected
  end,
  ['room'] = function(key, member, expected)   -- it holds this member or fewer than `most`, by scores from `since` on
    local since, upto, most = expected:match('(%S+) (%S+) (%S+)')
    local score = redis.call('ZSCORE', key, member)
    if score and tonumber(score) >= tonumber(since) then
      return true
    end
    return redis.call('ZCOUNT', key, since, upto) < tonumber(most)
  end,
  ['empty'] = function(key)                    -- there is nothing under this name
    return redis.call('EXISTS', key) == 0
  end,
  ['head'] = function(key, _, expected)      -- the first element of the list is this
    return redis.call('LINDEX', key, 0) == expected
  end,
  ['size'] = function(key, _, expected)      -- the set has this many members
    return redis.call('SCARD', key) == expected
  end,
  ['below'] = function(key, _, size)         -- the set has fewer members than this
    return redis.call('SCARD', key) < size
  end,
  ['fields-below'] = function(key, _, size)  -- the hash has fewer fields than this
    return redis.call('HLEN', key) < size
  end,
  ['sum-below'] = function(key, _, most)     -- the numbers in the hash add up to less than this
    local sum = 0
    for _, value in ipairs(redis.call('HVALS', key)) do
      sum = sum + tonumber(value)
    end
    return sum < most
  end,
  ['since-below'] = function(key, since, size)  -- the sorted set has fewer members with this score or more
    return redis.call('ZCOUNT', key, since, '+inf') < size
  end,
  ['length'] = function(key, _, expected)    -- the list has this length
    return redis.call('LLEN', key) == expected
  end,
}

local broken = {}
for number, guard in ipairs(guards) do
  if not holds[guard[1]](guard[2], guard[3], guard[4]) then
    broken[#broken + 1] = number
  end
end
if #broken == 0 then
  for _, command in ipairs(commands) do
    redis.call(unpack(command))
  end
end
return broken

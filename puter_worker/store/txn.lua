-- Compare, then write. Redis runs nothing else meanwhile, so no guard can break between its test and the commands.
-- ARGV[1]: in MessagePack, {guards, commands}; a guard is {kind, key, field, expected}, a command a list of words.
-- A word that is {n} is ARGV[n]: Redis's MessagePack knows no bytes that are not text.
-- Answers the 1-based numbers of the guards that did not hold; nothing was written unless there are none.
-- A command that Redis refuses (out of memory, wrong type) ends the script there: what went before it stays written.
local guards, commands = unpack(cmsgpack.unpack(ARGV[1]))

local holds = {
  ['hash'] = function(key, field, expected)  -- the field has this value
    return redis.call('HGET', key, field) == expected
  end,
  ['no-hash'] = function(key, field)         -- the field is not there
    return not redis.call('HGET', key, field)
  end,
  ['member'] = function(key, member)         -- the sorted set holds this member
    return redis.call('ZSCORE', key, member)
  end,
  ['head'] = function(key, _, expected)      -- the list begins with exactly this
    return redis.call('LINDEX', key, 0) == expected
  end,
  ['size'] = function(key, _, expected)      -- the set holds that many
    return redis.call('SCARD', key) == expected
  end,
  ['length'] = function(key, _, expected)    -- the list is that long
    return redis.call('LLEN', key) == expected
  end,
}

local function with_bytes(words)
  for place, word in ipairs(words) do
    if type(word) == 'table' then
      words[place] = ARGV[word[1]]
    end
  end
  return words
end

local broken = {}
for number, guard in ipairs(guards) do
  guard = with_bytes(guard)
  if not holds[guard[1]](guard[2], guard[3], guard[4]) then
    broken[#broken + 1] = number
  end
end
if #broken == 0 then
  for _, command in ipairs(commands) do
    redis.call(unpack(with_bytes(command)))
  end
end
return broken

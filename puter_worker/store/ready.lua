-- Reads a part of the ready set, which clients write, and removes names whose inbox is empty: a client adds its inbox
-- in the transaction that appends to the inbox, so nobody waits under such a name. However many names there are, a call
-- looks at ARGV[1] of them at most, drawn at random, so that no name keeps others from being looked at.
-- KEYS: the ready set. ARGV: how many names at most; what names of inboxes begin with.
-- Returns how many names were removed, then those with requests.
local names, empty = {}, {}
for _, name in ipairs(redis.call('SRANDMEMBER', KEYS[1], ARGV[1])) do
  local into = redis.call('EXISTS', ARGV[2] .. name) == 1 and names or empty
  into[#into + 1] = name
end
if #empty > 0 then
  redis.call('SREM', KEYS[1], unpack(empty))
end
table.insert(names, 1, #empty)
return names

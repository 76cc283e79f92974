-- Reads a part of the ready set, which clients write, and removes names that nobody waits under: those whose inbox is
-- empty (a client adds its inbox in the transaction that appends to the inbox), and those too long for an inbox's.
-- Each step copies a few names, for a client may add names as long as the server lets it: a reply with a hundred of
-- 8 MB took 4.7 GB. A walk with a cursor, not a draw, so that each name has its turn, however many there are.
-- KEYS: the ready set. ARGV: cursor ('0': from the beginning), how many names and bytes at most, bytes of the longest
-- name of an inbox, what keys of inboxes begin with.
-- Returns the next cursor ('0': the end was reached), how many names without requests were removed, how many that were
-- too long, then the names with requests.
local cursor, steps, seen, bytes = ARGV[1], 0, 0, 0
local answer, gone, long = {0, 0, 0}, {}, 0
repeat
  local part = redis.call('SSCAN', KEYS[1], cursor, 'COUNT', 1)
  cursor, steps = part[1], steps + 1
  for _, name in ipairs(part[2]) do
    seen, bytes = seen + 1, bytes + #name
    if #name > tonumber(ARGV[4]) then
      long = long + redis.call('SREM', KEYS[1], name)
    elseif redis.call('EXISTS', ARGV[5] .. name) == 1 then
      answer[#answer + 1] = name
    else
      gone[#gone + 1] = name
    end
  end
until cursor == '0' or math.max(steps, seen) >= tonumber(ARGV[2]) or bytes >= tonumber(ARGV[3])
answer[1], answer[3] = cursor, long
if #gone > 0 then
  answer[2] = redis.call('SREM', KEYS[1], unpack(gone))
end
return answer

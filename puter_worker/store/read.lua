-- Reads what is stored under some names, in their order, until the answer has ARGV[1] bytes: the server ends the connection
-- of a client that is sent more than its limit, and what is stored under one name may be as large as a request.
-- KEYS: strings; or hashes, of which the fields ARGV[2], … are read.
-- Returns what is stored under the first names: of hashes the fields, one after the other. What is not there is nil. It is
-- over the limit by ten strings or one hash at most.
local most, fields = tonumber(table.remove(ARGV, 1)), ARGV
local answer, bytes, step = {}, 0, #fields == 0 and 10 or 1  -- a call from Lua costs more than a small value
for at = 1, #KEYS, step do
  local found = step > 1 and redis.call('MGET', unpack(KEYS, at, math.min(#KEYS, at + step - 1)))
    or redis.call('HMGET', KEYS[at], unpack(fields))
  for _, value in ipairs(found) do
    answer[#answer + 1] = value
    bytes = bytes + (value and #value or 0)
  end
  if bytes >= most then
    break
  end
end
return answer
